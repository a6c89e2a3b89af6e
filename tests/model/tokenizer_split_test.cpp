// Pieces of the pre-tokenizers, by hand from the patterns of the families' tokenizer.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/pretokenizer.hpp"

namespace troupe::model {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> pieces(std::string_view name, std::string_view text) {
  const auto rule = find_pretokenizer_rule(name);
  EXPECT_TRUE(rule);
  const auto splitter = pretokenizer::make(rule->patterns);
  EXPECT_TRUE(splitter) << to_string(splitter.error());
  std::vector<std::size_t> lengths;
  (*splitter)->split(text, lengths);
  std::vector<std::string> out;
  for (const std::size_t length : lengths) {
    out.emplace_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  EXPECT_TRUE(text.empty());
  return out;
}

TEST(pretokenizer, gpt2) {
  EXPECT_THAT(pieces("gpt-2", "I'm  12 x!!\n\n y"),
              ElementsAre("I", "'m", " ", " 12", " x", "!!", "\n\n", " y"));
  EXPECT_THAT(pieces("gpt-2", "a  "), ElementsAre("a", "  "));
}

TEST(pretokenizer, smollm_takes_digits_one_by_one) {
  EXPECT_THAT(pieces("smollm", "a  12 b"), ElementsAre("a", "  ", "1", "2", " b"));
  EXPECT_THAT(pieces("smollm", "  b ½"), ElementsAre(" ", " b", " ", "½"));
}

TEST(pretokenizer, llama3_takes_three_digits_and_either_case) {
  EXPECT_THAT(pieces("llama-bpe", "I'M 12345\r\n\n (x)"),
              ElementsAre("I", "'M", " ", "123", "45", "\r\n\n", " (", "x", ")"));
  EXPECT_THAT(pieces("llama-bpe", "a.\n\nb"), ElementsAre("a", ".\n\n", "b"));
}

TEST(pretokenizer, qwen2) {
  EXPECT_THAT(pieces("qwen2", "a 12"), ElementsAre("a", " ", "1", "2"));
}

TEST(pretokenizer, gpt4o_cuts_at_case) {
  EXPECT_THAT(pieces("gpt-4o", "HelloWorld's JSONData"),
              ElementsAre("Hello", "World's", " JSONData"));
  EXPECT_THAT(pieces("tekken", "aB 12"), ElementsAre("a", "B", " ", "1", "2"));
}

TEST(pretokenizer, deepseek_splits_in_stages) {
  EXPECT_THAT(pieces("deepseek-v3", "abc12345你好 x.y"),
              ElementsAre("abc", "123", "45", "你好", " x", ".y"));
}

TEST(pretokenizer, mongolian_vowel_separator_is_not_a_space) {
  EXPECT_THAT(pieces("gpt-2", "!\u180E!"), ElementsAre("!\u180E!"));
  EXPECT_THAT(pieces("gpt-2", "!\u00A0!"), ElementsAre("!", "\u00A0", "!"));
}

TEST(pretokenizer, invalid_bytes_are_pieces) {
  EXPECT_THAT(pieces("gpt-2", "a\xFF\xFE b\xE4\xBD"),
              ElementsAre("a", "\xFF", "\xFE", " b", "\xE4", "\xBD"));
}

TEST(pretokenizer, reports_bad_patterns) {
  const std::vector<std::string> patterns = {"(a"};
  const auto made = pretokenizer::make(patterns);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ec::unsupported);
}

TEST(pretokenizer, long_runs_are_bounded) {
  for (const char* name :
       {"gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken", "deepseek-v3"})
    for (const char* unit : {"a", "A", " ", "\n", "1", "!", "你", "a\xFF", " \n"}) {
      std::string text;
      while (text.size() < 1 << 18) text += unit;
      EXPECT_FALSE(pieces(name, text).empty()) << name << unit;
    }
}

}  // namespace
}  // namespace troupe::model
