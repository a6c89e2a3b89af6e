// Equal digests, equal model: what changes the digest and what does not.
#include <gtest/gtest.h>

#include <functional>

#include "model/model.hpp"
#include "tests/model/tiny_gguf.hpp"

namespace troupe::testing {
namespace {

hash128_t digest_of(const gguf_writer& file) {
  temporary_directory dir;
  write_file(dir / "tiny.gguf", file.finish());
  auto opened = model::open_model(dir / "tiny.gguf");
  if (!opened) throw std::runtime_error(opened.error().detail);
  return (*opened)->digest;
}

TEST(digest, is_the_same_for_the_same_model) {
  const auto base = digest_of(tiny_gguf());
  EXPECT_EQ(base, digest_of(tiny_gguf()));
  // What people read, and how the file is laid out, decide no answer.
  auto renamed = tiny_gguf({}, {"general.name"});
  renamed.add("general.name", "Other");
  renamed.add("general.license", "mit");
  EXPECT_EQ(base, digest_of(renamed));
  auto reordered = tiny_gguf();
  std::swap(reordered.tensors.front(), reordered.tensors.back());
  EXPECT_EQ(base, digest_of(reordered));
}

TEST(digest, changes_with_whatever_decides_an_answer) {
  std::vector<hash128_t> seen = {digest_of(tiny_gguf())};
  auto fresh = [&seen](const gguf_writer& file) {
    seen.push_back(digest_of(file));
    return std::count(seen.begin(), seen.end(), seen.back()) == 1;
  };
  auto low_bit = tiny_gguf();
  low_bit.data.back() ^= std::byte{1};
  EXPECT_TRUE(fresh(low_bit));
  EXPECT_TRUE(fresh(tiny_gguf({.seed = 2})));
  EXPECT_TRUE(fresh(tiny_gguf({.rope_theta = 10001.0f})));
  EXPECT_TRUE(fresh(tiny_gguf({.context = 511})));
  auto template_changed = tiny_gguf({}, {"tokenizer.chat_template"});
  template_changed.add("tokenizer.chat_template", "{{ messages }}");
  EXPECT_TRUE(fresh(template_changed));
  auto merges_changed = tiny_gguf({}, {"tokenizer.ggml.merges"});
  merges_changed.add("tokenizer.ggml.merges", std::vector<std::string>{"h e"});
  EXPECT_TRUE(fresh(merges_changed));
  // Two tensors of one shape change places.
  auto swapped = tiny_gguf();
  for (auto& t : swapped.tensors) {
    if (t.name == "blk.0.attn_k.weight")
      t.name = "blk.0.attn_v.weight";
    else if (t.name == "blk.0.attn_v.weight")
      t.name = "blk.0.attn_k.weight";
  }
  EXPECT_TRUE(fresh(swapped));
}

}  // namespace
}  // namespace troupe::testing
