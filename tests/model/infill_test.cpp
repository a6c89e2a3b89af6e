// Filling in the middle: which vocabularies can, and what the prompt is.
#include "model/infill.hpp"

#include <gtest/gtest.h>

#include "model/model.hpp"
#include "tests/model/default_model.hpp"

namespace troupe::testing {
namespace {

struct infill : ::testing::Test {
  void SetUp() override {
    const auto loaded = model::open_model(default_model());
    ASSERT_TRUE(loaded) << to_string(loaded.error());
    const auto made = model::tokenizer::make(**loaded);
    ASSERT_TRUE(made);
    tokenizer = *made;
  }
  std::shared_ptr<const model::tokenizer> tokenizer;
};

TEST_F(infill, a_chat_vocabulary_has_no_tokens_for_it) {
  model::metadata meta("test");
  EXPECT_FALSE(model::find_infill_tokens(*tokenizer, meta));
}

TEST_F(infill, the_file_may_name_them) {
  model::metadata meta("test");
  meta.set_u32("tokenizer.ggml.fim_pre_token_id", 5);
  meta.set_u32("tokenizer.ggml.fim_suf_token_id", 6);
  EXPECT_FALSE(model::find_infill_tokens(*tokenizer, meta)) << "two are not enough";
  meta.set_u32("tokenizer.ggml.fim_mid_token_id", 7);
  const auto found = model::find_infill_tokens(*tokenizer, meta);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->prefix, 5u);
  EXPECT_EQ(found->suffix, 6u);
  EXPECT_EQ(found->middle, 7u);
  model::metadata outside("test");
  outside.set_u32("tokenizer.ggml.fim_pre_token_id", 5);
  outside.set_u32("tokenizer.ggml.fim_suf_token_id", 6);
  outside.set_u32("tokenizer.ggml.fim_mid_token_id", 1u << 20);
  EXPECT_FALSE(model::find_infill_tokens(*tokenizer, outside));
}

TEST_F(infill, users_text_stays_text) {
  const std::string before = "def f(x):\n    return <|im_end|>", behind = "\n\nprint(f(1))\n";
  std::vector<token_id> expected{5};
  for (const token_id t : tokenizer->encode(before, false)) expected.push_back(t);
  expected.push_back(6);
  for (const token_id t : tokenizer->encode(behind, false)) expected.push_back(t);
  expected.push_back(7);
  const auto ids = model::infill_prompt(*tokenizer, {5, 6, 7}, before, behind, false);
  EXPECT_EQ(ids, expected);
  const auto end = tokenizer->find("<|im_end|>");
  ASSERT_TRUE(end);
  EXPECT_EQ(std::find(ids.begin(), ids.end(), *end), ids.end());
  EXPECT_EQ(model::infill_prompt(*tokenizer, {5, 6, 7}, "", "", false),
            (std::vector<token_id>{5, 6, 7}));
}

}  // namespace
}  // namespace troupe::testing
