#include "api/command_line.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "api/command_flags.hpp"
#include "api/http_client.hpp"
#include "api/launch_file.hpp"
#include "api/serving.hpp"

namespace troupe::api {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

struct environment {
  environment(const char* n, const char* value) : name(n) { ::setenv(n, value, 1); }
  ~environment() { ::unsetenv(name); }
  const char* name;
};

std::string file_with(const std::string& text) {
  char path[] = "/tmp/troupe-test-XXXXXX";
  ::close(::mkstemp(path));
  std::ofstream(path) << text;
  return path;
}

template <class T>
T expect(const std::vector<std::string>& words) {
  auto line = parse_command_line(words);
  EXPECT_TRUE(line.what) << line.text;
  return line.what ? std::get<T>(*line.what) : T{};
}

void refused(const std::vector<std::string>& words, const std::string& hint) {
  auto line = parse_command_line(words);
  EXPECT_FALSE(line.what) << words.back();
  EXPECT_EQ(line.exit_code, exit_configuration);
  EXPECT_THAT(line.text, HasSubstr(hint));
}

// Each number of each command, with the words that lead to it.
void for_each_number(
    const CLI::App& a, const std::vector<std::string>& path,
    const std::function<void(const std::vector<std::string>&, const CLI::Option&)>& visit) {
  for (const auto* o : a.get_options({})) {
    const auto type = o->get_type_name();
    for (const char* kind : {"INT", "UINT", "FLOAT"})
      if (type == kind || type.starts_with(std::string(kind) + ":")) visit(path, *o);
  }
  for (const auto* sub : a.get_subcommands({})) {
    auto longer = path;
    longer.push_back(sub->get_name());
    for_each_number(*sub, longer, visit);
  }
}

TEST(command_line, a_number_out_of_range_is_told_with_its_flag_and_its_range) {
  builder b;
  build(b);
  int numbers = 0;
  for_each_number(b.app, {}, [&](const std::vector<std::string>& path, const CLI::Option& o) {
    ++numbers;
    const auto flag = o.get_name();
    EXPECT_THAT(o.get_type_name(), HasSubstr(" in [")) << path.front() << ' ' << flag;
    for (const std::string value : {"many", "1e300", "-1e300", "99999999999999999999", "nan"}) {
      auto words = path;
      words.push_back(flag + "=" + value);
      refused(words, flag + ": " + value + " is not a ");
      refused(words, " from ");
    }
  });
  EXPECT_GT(numbers, 60);
}

TEST(command_line, a_switch_is_true_or_false) {
  refused({"serve", "--exact=maybe"}, "--exact: maybe is not true or false");
}

TEST(command_line, a_wrong_value_of_the_environment_is_called_by_its_name) {
  environment port("TROUPE_PORT", "http");
  refused({"serve"}, "TROUPE_PORT: http is not a whole number from 0 to 65535");
  refused({"serve", "--port=https"}, "--port: https is not");
}

TEST(command_line, help_shows_the_command_as_it_is_typed) {
  EXPECT_THAT(parse_command_line({"bench", "serve", "--help"}).text,
              HasSubstr("Usage: troupe bench serve [OPTIONS]"));
  EXPECT_THAT(parse_command_line({"--help"}).text, HasSubstr("Usage: troupe [OPTIONS]"));
}

TEST(command_line, serve_takes_flags) {
  auto c = expect<serve_config>({"serve",
                                 "m.gguf",
                                 "--port",
                                 "9000",
                                 "--prefill=2",
                                 "--decode",
                                 "3",
                                 "--threads",
                                 "4",
                                 "--api-key",
                                 "a",
                                 "--api-key",
                                 "b",
                                 "--served-model-name",
                                 "x",
                                 "--served-model-name",
                                 "y",
                                 "--kv-memory",
                                 "1.5G",
                                 "--device",
                                 "cpu",
                                 "--no-ui",
                                 "--no-prefix-caching",
                                 "--single-process",
                                 "--log-format",
                                 "json",
                                 "--cluster-port",
                                 "7070",
                                 "--lease-ms",
                                 "1000"});
  EXPECT_EQ(c.model.path, "m.gguf");
  EXPECT_EQ(c.http.port, 9000);
  EXPECT_EQ(c.prefill, 2u);
  EXPECT_EQ(c.decode, 3u);
  EXPECT_EQ(c.node.runner.num_threads, 4u);
  EXPECT_EQ(c.http.keys, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(c.model.served_names, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(c.node.engine.kv_memory_bytes, 1610612736u);
  EXPECT_FALSE(c.http.web_ui);
  EXPECT_FALSE(c.node.engine.prefix_caching);
  EXPECT_TRUE(c.single_process);
  EXPECT_EQ(c.node.network.port, 7070);
  EXPECT_EQ(c.node.engine.lease.count(), 1000);
  const auto plain = expect<serve_config>({"serve"});
  EXPECT_EQ(plain.http.host, "127.0.0.1") << "loopback by default";
  EXPECT_TRUE(plain.http.web_ui);
  EXPECT_TRUE(plain.node.engine.prefix_caching);
}

TEST(command_line, flags_beat_environment_beats_file) {
  const auto file = file_with(
      "port = 1111\nprefill = 5\ndecode = 7\nno-ui = true\napi-key = [\"k1\", \"k2\"]\nlog-level = "
      "\"debug\"\n");
  environment port("TROUPE_PORT", "2222"), prefill("TROUPE_PREFILL", "6");
  auto c = expect<serve_config>({"serve", "--config", file, "--port", "3333"});
  EXPECT_EQ(c.http.port, 3333);
  EXPECT_EQ(c.prefill, 6u);
  EXPECT_EQ(c.decode, 7u);
  EXPECT_FALSE(c.http.web_ui);
  EXPECT_EQ(c.http.keys, (std::vector<std::string>{"k1", "k2"}));
  EXPECT_EQ(c.log.level, "debug");
  environment single("TROUPE_SINGLE_PROCESS", "true");
  EXPECT_TRUE(expect<serve_config>({"serve"}).single_process);
}

TEST(command_line, wrong_files_are_named) {
  refused({"serve", "-hf", "user/repo"}, "download the file and give its path");
  refused({"serve", "m.gguf", "--cluster-secret", "s"}, "use --cluster-secret-file");
  expect<version_config>({"--version"});
  refused({"serve", "--config", file_with("prot = 1\n")}, "did you mean 'port'?");
  refused({"serve", "--config", file_with("port = \"many\"\n")}, "--config");
  refused({"serve", "--config", file_with("port = 99999\n")}, "port");
  refused({"serve", "--config", file_with("prefill = 65\n")}, "prefill");
  refused({"serve", "--config", file_with("port = = 1\n")}, "line 1");
  refused({"serve", "--config", file_with("[port]\nx = 1\n")}, "plain value");
  refused({"serve", "--config", "/no/such/file"}, "/no/such/file");
}

TEST(command_line, unknown_things_get_a_suggestion) {
  refused({"serve", "--prefil", "1"}, "--prefil; did you mean --prefill?");
  refused({"serve", "--max-model-length=5"}, "did you mean --max-model-len?");
  refused({"perform"}, "perform");
  refused({"serv"}, "did you mean serve?");
  refused({"bench", "engin"}, "engin");
  refused({}, "--help");
}

TEST(command_line, bad_values_name_their_flag) {
  const std::vector<std::vector<std::string>> rows{
      {"--prefill", "-1"},   {"--prefill", "many"},      {"--port", "99999"},
      {"--port", "-1"},      {"--threads", "0"},         {"--decode", "0"},
      {"--decode", "65"},    {"--log-level", "loud"},    {"--kv-memory", "lots"},
      {"--kv-memory", "-1"}, {"--kv-memory", "1e300"},   {"--max-model-len", "1"},
      {"--isa", "mmx"},      {"--max-connections", "0"}, {"--cluster-secret-file", "/no/such"}};
  for (const auto& row : rows) refused({"serve", row[0], row[1]}, row[0]);
  for (const char* flag : {"--port", "--cluster-port"})
    refused({"serve", flag, "99999"}, "99999 is not a whole number from 0 to 65535");
  refused({"node", "--role", "director", "--join", "h:1"}, "director");
  refused({"node", "--role", "decode"}, "--join");
  refused({"node", "--role", "decode", "--join", "nowhere"}, "HOST:PORT");
  refused({"node", "--role", "decode", "--join", "h:99999"}, "HOST:PORT");
  refused({"run"}, "PROMPT");
  refused({"run", "x", "--temperature", "3"}, "--temperature");
}

TEST(command_line, a_short_secret_is_refused) {
  refused({"serve", "--cluster-secret-file", file_with("short\n")}, "16 characters");
  EXPECT_EQ(expect<serve_config>(
                {"serve", "--cluster-secret-file", file_with("0123456789abcdef\nrest\n")})
                .node.network.secret,
            "0123456789abcdef");
}

TEST(command_line, help_is_there_for_every_command) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{},
                                             {"serve"},
                                             {"node"},
                                             {"launch"},
                                             {"run"},
                                             {"chat"},
                                             {"inspect"},
                                             {"tokenize"},
                                             {"status"},
                                             {"version"},
                                             {"bench"},
                                             {"bench", "serve"},
                                             {"bench", "engine"},
                                             {"bench", "kv"}}) {
    auto with_help = words;
    with_help.push_back("--help");
    auto line = parse_command_line(with_help);
    EXPECT_FALSE(line.what);
    EXPECT_EQ(line.exit_code, exit_clean);
    EXPECT_THAT(line.text, HasSubstr("--help"));
  }
  EXPECT_THAT(parse_command_line({"serve", "--help"}).text, HasSubstr("TROUPE_MAX_MODEL_LEN"));
}

TEST(command_line, the_other_commands) {
  EXPECT_EQ(
      expect<ask_config>({"run", "Hi", "--url", "http://h:1", "--max-tokens", "5", "--explain"})
          .max_tokens,
      5u);
  EXPECT_TRUE(expect<ask_config>({"chat"}).chat);
  EXPECT_EQ(
      expect<bench_engine_config>({"bench", "engine", "m.gguf", "-p", "64,128", "-n", "0"}).prompt,
      (std::vector<std::uint32_t>{64, 128}));
  EXPECT_EQ(expect<bench_serve_config>(
                {"bench", "serve", "--request-rate", "2.5", "--goodput", "ttft:200", "tpot:5"})
                .goodput.size(),
            2u);
  EXPECT_EQ(expect<inspect_config>({"inspect", "m.gguf"}).model.path, "m.gguf");
  EXPECT_EQ(expect<status_config>({"status", "--url", "http://h:1"}).url, "http://h:1");
  EXPECT_TRUE(std::holds_alternative<version_config>(*parse_command_line({"version"}).what));
}

TEST(command_line, children_are_told_what_their_parent_was) {
  auto c = expect<serve_config>({"serve", "--threads", "3", "--kv-blocks", "64",
                                 "--max-prefill-chunk", "32", "--no-prefix-caching",
                                 "--insecure-cluster", "--cluster-host", "10.0.0.1"});
  auto words = node_flags(c.node, c.log);
  words.insert(words.begin(), {"node", "m.gguf", "--role", "decode", "--join", "10.0.0.1:1"});
  auto n = expect<node_config>(words);
  EXPECT_EQ(n.node.runner.num_threads, 3u);
  EXPECT_EQ(n.node.engine.num_kv_blocks, 64u);
  EXPECT_EQ(n.node.engine.max_prefill_chunk, 32u);
  EXPECT_FALSE(n.node.engine.prefix_caching);
  EXPECT_TRUE(n.node.network.insecure);
  EXPECT_EQ(n.node.network.host, "10.0.0.1");
}

TEST(command_line, the_default_model_follows_xdg) {
  environment cache("XDG_CACHE_HOME", "/no/cache");
  EXPECT_EQ(default_model_path(), "/no/cache/troupe/models/SmolLM2-135M-Instruct.Q4_1.gguf");
  auto missing = find_model({});
  ASSERT_FALSE(missing);
  EXPECT_THAT(missing.error().detail, HasSubstr("deploy/get-model"));
}

TEST(command_line, a_model_is_named_as_its_file) {
  for (const auto& [path, name] : std::vector<std::pair<std::string, std::string>>{
           {"/m/SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M.Q4_1"},
           {"/m/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct"},
           {"/m/Qwen2.5-0.5B-Instruct/", "Qwen2.5-0.5B-Instruct"},
           {"/m/Qwen2.5-0.5B/./", "Qwen2.5-0.5B"},
           {"/m/Qwen2.5-0.5B/x/..", "Qwen2.5-0.5B"}})
    EXPECT_EQ(base_name(path), name) << path;
}

TEST(command_line, urls) {
  EXPECT_EQ(parse_url("http://h:81/x/")->base, "/x");
  EXPECT_EQ(parse_url("http://h")->port, 80);
  EXPECT_EQ(parse_url("h:8000")->host, "h");
  EXPECT_EQ(parse_url("http://[::1]:90")->host, "::1");
  EXPECT_EQ(parse_url("http://[::1]")->port, 80);
  EXPECT_FALSE(parse_url("https://h"));
  EXPECT_FALSE(parse_url("http://h:99999"));
  EXPECT_FALSE(parse_url("http://:80"));
}

TEST(command_line, the_environment_may_hold_several_keys) {
  environment keys("TROUPE_API_KEY", "one two");
  EXPECT_EQ(expect<serve_config>({"serve"}).http.keys, (std::vector<std::string>{"one", "two"}));
}

TEST(launch_file, becomes_commands) {
  auto entries = parse_launch_file(R"(
    model = "/m.gguf"
    threads = 2
    [serve]
    on = "10.0.0.1"
    api-key = ["one", "two"]
    port = 80
    host = "0.0.0.0"
    [[node]]
    role = "prefill"
    on = "10.0.0.2"
    count = 2
    [[node]]
    role = "decode"
    max-num-seqs = 8
  )");
  ASSERT_TRUE(entries) << entries.error().detail;
  ASSERT_EQ(entries->size(), 4u);
  const auto& serve = entries->at(0).arguments;
  EXPECT_EQ(serve.front(), "serve");
  EXPECT_EQ(entries->at(0).api_keys, (std::vector<std::string>{"one", "two"}));
  for (const auto& word : serve) EXPECT_EQ(word.find("api-key"), std::string::npos) << word;
  for (const char* word : {"--port=80", "--cluster-host=10.0.0.1", "--cluster-port=7070",
                           "--model=/m.gguf", "--threads=2", "--prefill=0"})
    EXPECT_THAT(serve, Contains(word));
  EXPECT_EQ(entries->at(2).host, "10.0.0.2");
  for (const char* word :
       {"--role=prefill", "--join=10.0.0.1:7070", "--cluster-host=10.0.0.2", "--model=/m.gguf"})
    EXPECT_THAT(entries->at(2).arguments, Contains(word));
  EXPECT_NE(entries->at(1).name, entries->at(2).name);
  EXPECT_THAT(entries->at(3).arguments, Contains("--max-num-seqs=8"));
  for (const auto& e : *entries)
    EXPECT_TRUE(parse_command_line(e.arguments).what) << parse_command_line(e.arguments).text;
}

TEST(launch_file, mistakes_are_named) {
  const std::pair<const char*, const char*> rows[] = {
      {"", "[serve] is missing"},
      {"[serv]", "unknown section 'serv'"},
      {"[serve]\n[[node]]\nrole='x'", "role 'x'"},
      {"colour=1\n[serve]", "unknown key 'colour'"},
      {"[serve]\n[[node]]\nrole='decode'\ncount=-1", "count"},
      {"[serve]\napi-key=\"a b\"", "spaces"},
      {"[serve", "line 1"},
      {"[serve]\n[[nodes]]\n", "unknown section"}};
  for (const auto& [text, hint] : rows) {
    auto r = parse_launch_file(text);
    ASSERT_FALSE(r) << text;
    EXPECT_THAT(r.error().detail, HasSubstr(hint));
  }
}

TEST(command_line, edit_distances) {
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("same", "same"), 0u);
}

}  // namespace
}  // namespace troupe::api
