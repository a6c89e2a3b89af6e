// Files on disk: shards, what is no regular file, files that change under their mapping.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "model/inspect.hpp"
#include "model/mapped_file.hpp"
#include "model/model.hpp"
#include "tests/model/tiny_gguf.hpp"

namespace troupe::testing {
namespace {

using model::open_model;

// The tiny model in two files, as gguf-split writes them: all keys in the first.
std::pair<gguf_writer, gguf_writer> two_shards() {
  const auto whole = tiny_gguf();
  auto first = whole;
  first.tensors.clear();
  first.data.clear();
  gguf_writer second;
  for (std::size_t i = 0; i < whole.tensors.size(); ++i) {
    const auto& t = whole.tensors[i];
    const auto end = i + 1 < whole.tensors.size() ? whole.tensors[i + 1].offset : whole.data.size();
    auto& shard = i % 2 ? second : first;
    shard.add_tensor(t.name, static_cast<model::tensor_type>(t.type), t.shape,
                     std::span(whole.data).subspan(t.offset, end - t.offset));
  }
  for (std::uint32_t i : {0u, 1u}) {
    auto& shard = i ? second : first;
    shard.add("split.no", i);
    shard.add("split.count", 2u);
    shard.add("split.tensors.count", static_cast<std::uint32_t>(whole.tensors.size()));
  }
  return {first, second};
}

TEST(gguf_shards, give_the_same_model_as_one_file) {
  temporary_directory dir;
  write_tiny_gguf(dir / "whole.gguf");
  auto [first, second] = two_shards();
  write_file(dir / "m-00001-of-00002.gguf", first.finish());
  write_file(dir / "m-00002-of-00002.gguf", second.finish());
  auto whole = open_model(dir / "whole.gguf");
  auto sharded = open_model(dir / "m-00001-of-00002.gguf");
  ASSERT_TRUE(whole) << to_string(whole.error());
  ASSERT_TRUE(sharded) << to_string(sharded.error());
  EXPECT_EQ((*whole)->digest, (*sharded)->digest);
  EXPECT_EQ(model::inspect(dir / "m-00001-of-00002.gguf")->files, 2u);
  auto not_first = open_model(dir / "m-00002-of-00002.gguf");
  ASSERT_FALSE(not_first);
  EXPECT_NE(not_first.error().detail.find("give the first"), std::string::npos)
      << not_first.error().detail;
}

TEST(gguf_shards, missing_swapped_and_doubled_are_refused) {
  temporary_directory dir;
  auto [first, second] = two_shards();
  write_file(dir / "m-00001-of-00002.gguf", first.finish());
  auto missing = open_model(dir / "m-00001-of-00002.gguf");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ec::not_found);
  EXPECT_NE(missing.error().detail.find("m-00002-of-00002.gguf"), std::string::npos)
      << missing.error().detail;

  write_file(dir / "m-00002-of-00002.gguf", first.finish());
  auto swapped = open_model(dir / "m-00001-of-00002.gguf");
  ASSERT_FALSE(swapped);
  EXPECT_NE(swapped.error().detail.find("split.no"), std::string::npos) << swapped.error().detail;

  second.tensors[0].name = first.tensors[0].name;
  write_file(dir / "m-00002-of-00002.gguf", second.finish());
  auto doubled = open_model(dir / "m-00001-of-00002.gguf");
  ASSERT_FALSE(doubled);
  EXPECT_NE(doubled.error().detail.find("is in two shards"), std::string::npos)
      << doubled.error().detail;

  gguf_writer flood = tiny_gguf();
  flood.add("split.count", 0xffffffffu);
  write_file(dir / "flood.gguf", flood.finish());
  auto flooded = open_model(dir / "flood.gguf");
  ASSERT_FALSE(flooded);
  EXPECT_NE(flooded.error().detail.find("split.count"), std::string::npos)
      << flooded.error().detail;
}

TEST(mapped_file, refuses_what_is_no_regular_file_at_once) {
  temporary_directory dir;
  EXPECT_EQ(open_model(dir / "absent.gguf").error().code, ec::not_found);
  write_file(dir / "empty.gguf", std::string_view());
  EXPECT_EQ(open_model(dir / "empty.gguf").error().code, ec::corrupt_file);
  ASSERT_EQ(::mkfifo((dir / "pipe.gguf").c_str(), 0600), 0);
  EXPECT_EQ(open_model(dir / "pipe.gguf").error().code, ec::invalid_argument);
  EXPECT_EQ(open_model("/dev/zero").error().code, ec::invalid_argument);
  write_file(dir / "text.gguf", std::string_view("hello, this is no model"));
  EXPECT_NE(open_model(dir / "text.gguf").error().detail.find("not a GGUF file"),
            std::string::npos);
}

TEST(mapped_file, notices_a_file_that_changed) {
  temporary_directory dir;
  write_tiny_gguf(dir / "tiny.gguf");
  auto file = model::mapped_file::open(dir / "tiny.gguf").value();
  EXPECT_TRUE(file->verify());
  std::filesystem::resize_file(dir / "tiny.gguf", 100);
  auto changed = file->verify();
  ASSERT_FALSE(changed);
  EXPECT_EQ(changed.error().code, ec::io_error);
}

TEST(mapped_file_death_test, a_lost_page_ends_the_process_with_the_file_named) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  temporary_directory dir;
  write_tiny_gguf(dir / "tiny.gguf");
  EXPECT_EXIT(
      {
        model::report_lost_mappings();
        auto file = model::mapped_file::open(dir / "tiny.gguf").value();
        std::filesystem::resize_file(dir / "tiny.gguf", 0);
        volatile auto lost = file->bytes()[5000];
        static_cast<void>(lost);
      },
      ::testing::ExitedWithCode(74), "tiny.gguf was truncated");
}

TEST(mapped_file, a_replaced_file_leaves_the_open_model_whole) {
  temporary_directory dir;
  write_tiny_gguf(dir / "tiny.gguf", {.seed = 1});
  auto before = open_model(dir / "tiny.gguf").value();
  write_tiny_gguf(dir / "new.gguf", {.seed = 2});
  std::filesystem::rename(dir / "new.gguf", dir / "tiny.gguf");
  std::vector<float> row(before->weights.embed_tokens.columns), fresh(row.size());
  dequantize_row(before->weights.embed_tokens, 7, row);
  auto after = open_model(dir / "tiny.gguf").value();
  dequantize_row(after->weights.embed_tokens, 7, fresh);
  EXPECT_NE(row, fresh);
  EXPECT_NE(before->digest, after->digest);
}

}  // namespace
}  // namespace troupe::testing
