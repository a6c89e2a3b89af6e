// Traces and profiles that people bring: what is wrong is told with file, line and field.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "api/capacity_files.hpp"
#include "api/command_line.hpp"
#include "api/commands.hpp"

namespace troupe::api {
namespace {

using testing::HasSubstr;

class capacity_files : public testing::Test {
 protected:
  capacity_files() {
    std::string name = (std::filesystem::temp_directory_path() / "troupe-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~capacity_files() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path write(const std::string& name, const std::string& text) {
    const auto path = folder_ / name;
    std::ofstream(path) << text;
    return path;
  }
  static std::filesystem::path shipped(const std::string& name) {
    return std::filesystem::path(TROUPE_SOURCE_DIR) / "deploy/profiles" / name;
  }
  std::filesystem::path folder_;
  std::string printed_;
};

TEST(trace_line, reads_the_fields_and_leaves_others_alone) {
  const auto r = parse_trace_line(
      R"({"timestamp": 1500, "input_length": 700, "output_length": 3, "hash_ids": [5, 6], "x": {}})");
  ASSERT_TRUE(r) << r.error().detail;
  EXPECT_EQ(r->arrival_seconds, 1.5);
  EXPECT_EQ(r->input_length, 700u);
  EXPECT_EQ(r->output_length, 3u);
  EXPECT_THAT(r->hash_ids, testing::ElementsAre(5, 6));
  EXPECT_TRUE(parse_trace_line(R"({"timestamp": 0.5, "input_length": 1, "output_length": 1})"));
}

TEST(trace_line, names_the_field_that_is_wrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not a JSON object"},
      {"[1]", "not a JSON object"},
      {R"({"timestamp": 1)", "not a JSON object"},
      {R"({"input_length": 1, "output_length": 1})", "timestamp is missing"},
      {R"({"timestamp": -1, "input_length": 1, "output_length": 1})", "timestamp must be in"},
      {R"({"timestamp": "1", "input_length": 1, "output_length": 1})",
       "timestamp must be a number"},
      {R"({"timestamp": 1, "input_length": 0, "output_length": 1})", "input_length must be in"},
      {R"({"timestamp": 1, "input_length": 1.5, "output_length": 1})", "whole number"},
      {R"({"timestamp": 1, "input_length": 1, "output_length": 1e300})",
       "output_length must be in"},
      {R"({"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": 3})", "hash_ids"},
      {R"({"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [-3]})", "hash_ids"},
      {R"({"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": ["a"]})",
       "hash_ids"}};
  for (const auto& [line, why] : cases) {
    const auto r = parse_trace_line(line);
    ASSERT_FALSE(r) << line;
    EXPECT_THAT(r.error().detail, HasSubstr(why)) << line;
  }
}

TEST_F(capacity_files, a_bad_line_is_named_by_its_number) {
  const auto file = write("t.jsonl",
                          "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}\n\n"
                          "{\"timestamp\": 0, \"input_length\": 1}\n");
  const auto r = read_trace(file);
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().detail, HasSubstr("t.jsonl:3: output_length is missing"));
  EXPECT_FALSE(read_trace(folder_ / "none.jsonl"));
}

TEST_F(capacity_files, a_trace_is_cut_and_put_in_order) {
  std::string text;
  for (int ms : {5000, 1000, 3000, 9000})
    text += "{\"timestamp\": " + std::to_string(ms) + ", \"input_length\": " + std::to_string(ms) +
            ", \"output_length\": 1}\n";
  const auto r = read_trace(write("t.jsonl", text), 2, 9);
  ASSERT_TRUE(r);
  ASSERT_EQ(r->size(), 2u);
  EXPECT_EQ((*r)[0].input_length, 3000u);
  EXPECT_EQ((*r)[0].arrival_seconds, 1);
  EXPECT_EQ((*r)[1].arrival_seconds, 3);
}

TEST_F(capacity_files, every_shipped_profile_is_one_and_survives_being_written) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(
           std::filesystem::path(TROUPE_SOURCE_DIR) / "deploy/profiles")) {
    if (entry.path().extension() != ".json") continue;
    ++count;
    const auto p = read_profile(entry.path());
    ASSERT_TRUE(p) << p.error().detail;
    EXPECT_FALSE(p->source.empty()) << entry.path();
    const auto again = parse_profile(to_json(*p).dump());
    ASSERT_TRUE(again) << again.error().detail;
    EXPECT_EQ(to_json(*again), to_json(*p));
  }
  EXPECT_GE(count, 1u);
}

TEST_F(capacity_files, a_profile_names_the_field_that_is_wrong) {
  auto good = to_json(*read_profile(shipped("h100-llama-3-8b.json")));
  const auto refused = [&](const char* field, nlohmann::ordered_json value) {
    auto bad = good;
    bad[field] = std::move(value);
    const auto r = parse_profile(bad.dump());
    EXPECT_FALSE(r) << field;
    EXPECT_THAT(r ? "" : r.error().detail, HasSubstr(field));
  };
  refused("troupe_profile", 2);
  refused("prompt", nlohmann::ordered_json::array());
  refused("prompt", {{2, 0.1}, {1, 0.1}});
  refused("decode", "fast");
  refused("num_blocks", 0);
  refused("link_bytes_per_second", 0);
  refused("turn_seconds", -1);
  good.erase("block_bytes");
  EXPECT_THAT(parse_profile(good.dump()).error().detail, HasSubstr("block_bytes is missing"));
}

// The command as people call it; what it prints is for them.
TEST_F(capacity_files, the_command_plans_and_tells_what_it_cannot) {
  std::string text;
  for (int i = 0; i < 40; ++i)
    text += "{\"timestamp\": " + std::to_string(i * 100) +
            ", \"input_length\": 2000, \"output_length\": 20, \"hash_ids\": [1, " +
            std::to_string(i + 2) + "]}\n";
  const auto trace = write("t.jsonl", text).string();
  const auto profile = shipped("h100-llama-3-8b.json").string();
  const auto call = [&](std::vector<std::string> more) {
    std::vector<std::string> line{"simulate", "--trace", trace, "--profile", profile};
    line.insert(line.end(), more.begin(), more.end());
    const auto parsed = parse_command_line(line);
    EXPECT_TRUE(parsed.what) << parsed.text;
    if (!parsed.what) return -1;
    testing::internal::CaptureStdout();
    const int code = std::visit([](const auto& c) { return run_command(c); }, *parsed.what);
    printed_ = testing::internal::GetCapturedStdout();
    return code;
  };
  EXPECT_EQ(call({"--prefill", "1", "--decode", "1", "--json"}), exit_clean);
  const auto report = nlohmann::json::parse(printed_);
  EXPECT_EQ(report["arrivals"], 40);
  EXPECT_EQ(report["finished"], 40);
  EXPECT_EQ(report["output_tokens"], 800);
  EXPECT_EQ(report["prefill"]["nodes"], 1);
  const auto first = printed_;
  EXPECT_EQ(call({"--prefill", "1", "--decode", "1", "--json"}), exit_clean);
  EXPECT_EQ(printed_, first);  // one seed, one result
  EXPECT_EQ(call({"--nodes", "3", "--find-ratio", "--json", "--ttft-ms", "500"}), exit_clean);
  EXPECT_EQ(nlohmann::json::parse(printed_)["points"].size(), 3u);
  EXPECT_EQ(call({"--nodes", "2"}), exit_clean);
  EXPECT_THAT(printed_, HasSubstr("40 arrived, 40 whole"));
  EXPECT_EQ(call({"--find-ratio"}), exit_configuration);
  EXPECT_EQ(call({"--nodes", "2", "--decode", "1"}), exit_configuration);
  EXPECT_EQ(call({"--from-s", "1000"}), exit_configuration);
}

}  // namespace
}  // namespace troupe::api
