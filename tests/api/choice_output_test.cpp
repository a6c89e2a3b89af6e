#include "api/choice_output.hpp"

#include <gtest/gtest.h>

#include <random>

#include "fakes.hpp"

namespace troupe::api {
namespace {

using namespace testing;

bool valid_utf8(std::string_view s) {
  for (std::size_t i = 0; i < s.size();) {
    const auto c = static_cast<unsigned char>(s[i]);
    const std::size_t n = c < 0x80                ? 1
                          : c >= 0xC2 && c < 0xE0 ? 2
                          : c >= 0xE0 && c < 0xF0 ? 3
                          : c >= 0xF0 && c < 0xF5 ? 4
                                                  : 0;
    if (n == 0 || i + n > s.size()) return false;
    for (std::size_t k = 1; k < n; ++k)
      if ((static_cast<unsigned char>(s[i + k]) & 0xC0) != 0x80) return false;
    i += n;
  }
  return true;
}

struct outcome {
  std::string text;
  std::vector<logprob_entry> entries;
  std::vector<std::string> pieces;
  bool stopped = false;
};

outcome play(const std::vector<token_id>& tokens, const choice_options& options) {
  static const toy_tokenizer tokenizer;
  choice_output c(tokenizer, options);
  outcome out;
  auto take = [&](choice_delta d) {
    out.text += d.text;
    out.pieces.push_back(d.text);
    for (auto& e : d.logprobs) out.entries.push_back(std::move(e));
  };
  for (std::uint32_t i = 0; i < tokens.size(); ++i) take(c.push({i, tokens[i], -1.0f, {}}));
  take(c.flush());
  out.stopped = c.stopped();
  return out;
}

TEST(choice_output, text_is_valid_utf8_at_every_step) {
  const std::string text = "a\u00e9\u4e2d\U0001F468\u200D\U0001F469\u0645\u0631";
  const auto out = play(tokens_of(text), {});
  EXPECT_EQ(out.text, text);
  for (const auto& piece : out.pieces) EXPECT_TRUE(valid_utf8(piece));
}

TEST(choice_output, bytes_that_are_no_text_become_replacements) {
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    std::vector<token_id> tokens;
    for (int i = 0; i < 12; ++i)
      tokens.push_back(random() % 2 ? random() % 256 : 0x80 + random() % 128);
    const auto out = play(tokens, {});
    for (const auto& piece : out.pieces) ASSERT_TRUE(valid_utf8(piece));
  }
  EXPECT_EQ(play({0xF0, 0x9F}, {}).text, "\uFFFD");
}

TEST(choice_output, a_token_may_hold_part_of_an_emoji) {
  const auto out = play({'x', grin_head, grin_tail, 'y'}, {});
  EXPECT_EQ(out.text, "x\U0001F600y");
}

TEST(choice_output, stop_strings_across_tokens_and_inside_graphemes) {
  choice_options o;
  o.stop = {"lo w", "\u200D"};
  EXPECT_EQ(play(tokens_of("hello world"), o).text, "hel");
  EXPECT_EQ(play(tokens_of("\U0001F468\u200D\U0001F469"), o).text, "\U0001F468");
  o.include_stop_str_in_output = true;
  EXPECT_EQ(play(tokens_of("hello world"), o).text, "hello w");
  o.stop = {"zzz"};
  EXPECT_EQ(play(tokens_of("azz"), o).text, "azz") << "withheld text comes at the end";
}

TEST(choice_output, end_tokens_are_hidden) {
  EXPECT_EQ(play({'a', end_token}, {}).text, "a");
  choice_options o;
  o.skip_special_tokens = false;
  EXPECT_EQ(play({'a', end_token}, o).text, "a")
      << "the end of generation is no text, whatever special tokens are";
  o.ignore_eos = true;
  EXPECT_EQ(play({'a', end_token, 'b'}, o).text, "a<|end|>b");
  o.skip_special_tokens = true;
  EXPECT_EQ(play({'a', end_token, 'b'}, o).text, "ab");
  choice_options stop;
  stop.stop_token_ids = {'b'};
  EXPECT_EQ(play({'a', 'b'}, stop).text, "a");
  stop.include_stop_str_in_output = true;
  EXPECT_EQ(play({'a', 'b'}, stop).text, "ab");
}

TEST(choice_output, stop_strings_wait_for_min_tokens) {
  choice_options o;
  o.stop = {"b"};
  o.min_tokens = 4;
  EXPECT_EQ(play(tokens_of("abcdbe"), o).text, "abcd");
}

TEST(choice_output, logprobs_come_with_their_text) {
  choice_options o;
  o.logprobs = true;
  o.stop = {"END"};
  auto out = play(tokens_of("a\u00e9xEND!"), o);
  EXPECT_EQ(out.text, "a\u00e9x");
  ASSERT_EQ(out.entries.size(), 4u);  // two of them share the two bytes of é
  EXPECT_EQ(out.entries[3].text_offset, 2u);
  out = play({hello_token, ' ', 'E', 'N'}, o);
  EXPECT_EQ(out.text, "hello EN");
  ASSERT_EQ(out.entries.size(), 4u);
  EXPECT_EQ(out.entries[1].text_offset, 5u);
  // A token that straddles the cut keeps its logprob.
  o.stop = {"lo"};
  out = play({'x', hello_token}, o);
  EXPECT_EQ(out.text, "xhel");
  EXPECT_EQ(out.entries.size(), 2u);
}

}  // namespace
}  // namespace troupe::api
