// Tokenizers of small, made-up vocabularies: the algorithms by hand, and what damaged files must
// yield.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/bpe_alphabet.hpp"
#include "model/tokenizer_base.hpp"
#include "tests/model/tokenizer_metadata.hpp"

namespace troupe::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using troupe::testing::make_metadata;
using troupe::testing::vocab_description;

std::shared_ptr<const tokenizer> made(const vocab_description& from) {
  const auto meta = make_metadata(from);
  auto tokenizer = make_tokenizer(*meta);
  EXPECT_TRUE(tokenizer) << to_string(tokenizer.error());
  return *tokenizer;
}

error failure(const vocab_description& from) {
  const auto meta = make_metadata(from);
  const auto tokenizer = make_tokenizer(*meta);
  EXPECT_FALSE(tokenizer);
  return tokenizer ? error{} : tokenizer.error();
}

vocab_description bpe() {
  return {.tokens = {"a", "b", "c", "ab", "abc", "Ġ", "Ġa", "<s>", "aa", "<think>"},
          .types = {1, 1, 1, 1, 1, 1, 1, 3, 1, 4},
          .merges = {"a b", "Ġ a", "ab c", "a a"},
          .ids = {{"bos_token_id", 7}, {"eos_token_id", 7}}};
}

TEST(bpe_tokenizer, merges_lowest_rank_first_and_leftmost) {
  const auto tokenizer = made(bpe());
  EXPECT_THAT(tokenizer->encode("abc", false), ElementsAre(4u));
  EXPECT_THAT(tokenizer->encode("aab", false), ElementsAre(0u, 3u));  // "a b" before "a a"
  EXPECT_THAT(tokenizer->encode("aaaaa", false), ElementsAre(8u, 8u, 0u));
  EXPECT_THAT(tokenizer->encode("c abc", false), ElementsAre(2u, 5u, 4u));  // "a b" before "Ġ a"
  EXPECT_THAT(tokenizer->encode(" a", false), ElementsAre(6u));
}

TEST(bpe_tokenizer, long_and_short_pieces_agree) {
  const auto tokenizer = made(bpe());
  // Below and above the length at which the heap takes over.
  for (std::size_t count = 1; count < 100; ++count) {
    std::vector<token_id> expected(count / 2, 8u);
    if (count % 2 == 1) expected.push_back(0u);
    EXPECT_EQ(tokenizer->encode(std::string(count, 'a'), false), expected) << count;
  }
}

TEST(bpe_tokenizer, adds_bos_and_eos_as_the_file_says) {
  auto from = bpe();
  EXPECT_THAT(made(from)->encode("a", true), ElementsAre(0u));
  from.flags = {{"add_bos_token", true}, {"add_eos_token", true}};
  EXPECT_THAT(made(from)->encode("a", true), ElementsAre(7u, 0u, 7u));
  EXPECT_THAT(made(from)->encode("a", false), ElementsAre(0u));
}

TEST(bpe_tokenizer, finds_user_defined_tokens_in_any_text) {
  const auto tokenizer = made(bpe());
  EXPECT_THAT(tokenizer->encode("a<think>a", false), ElementsAre(0u, 9u, 0u));
  EXPECT_FALSE(tokenizer->is_special(9));
  EXPECT_EQ(tokenizer->token_bytes(9, false), "<think>");
}

TEST(bpe_tokenizer, prefers_the_longest_special_token) {
  auto from = bpe();
  from.tokens.insert(from.tokens.end(), {"<s><s>", "<s><"});
  from.types.insert(from.types.end(), {3, 3});
  EXPECT_THAT(made(from)->encode("<s><s><s>", false, true), ElementsAre(10u, 7u));
}

TEST(bpe_tokenizer, llama3_takes_whole_words_before_merges) {
  auto from = bpe();
  from.merges = {"a b", "ab c"};
  from.tokens.push_back("cab");
  from.types.push_back(1);
  EXPECT_THAT(made(from)->encode("cab", false), ElementsAre(2u, 3u));
  from.pre = "llama-bpe";
  EXPECT_THAT(made(from)->encode("cab", false), ElementsAre(10u));
  EXPECT_THAT(made(from)->encode("a", true), ElementsAre(7u, 0u));  // its default is to add bos
}

TEST(bpe_tokenizer, refuses_damaged_files_with_the_cause) {
  auto from = bpe();
  from.merges.push_back("a z");
  EXPECT_THAT(failure(from).detail, HasSubstr("merge 4 'a z' names a token that is not"));
  from.merges.back() = "b c";
  EXPECT_THAT(failure(from).detail, HasSubstr("makes a token that is not"));
  for (const char* merge : {"ab", "", " ", "a ", " a"}) {
    from.merges.back() = merge;
    EXPECT_THAT(failure(from).detail, HasSubstr("is not two tokens")) << merge;
  }
  from = bpe();
  from.ids["eos_token_id"] = 10;
  EXPECT_THAT(failure(from).detail,
              HasSubstr("eos_token_id is 10, but the vocabulary has 10 tokens"));
  from = bpe();
  from.types.pop_back();
  EXPECT_THAT(failure(from).detail, HasSubstr("token_type has 9 entries for 10 tokens"));
  from = bpe();
  from.types[3] = 77;
  EXPECT_THAT(failure(from).detail, HasSubstr("token_type[3] is 77"));
  from = bpe();
  from.tokens.clear();
  from.types.clear();
  EXPECT_EQ(failure(from).code, ec::corrupt_file);
}

TEST(bpe_tokenizer, names_the_patterns_it_knows) {
  auto from = bpe();
  from.pre = "martian";
  EXPECT_EQ(failure(from).code, ec::unsupported);
  EXPECT_THAT(failure(from).detail, HasSubstr("'martian'"));
  EXPECT_THAT(failure(from).detail, HasSubstr("llama-bpe"));
  from.model = "martian";
  EXPECT_EQ(failure(from).code, ec::unsupported);
}

TEST(bpe_alphabet, is_one_to_one) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  EXPECT_EQ(bpe_bytes(bpe_text(all)), all);
  EXPECT_EQ(bpe_text(" \n!"), "ĠĊ!");
  EXPECT_EQ(bpe_bytes("日"), "日");
}

vocab_description spm() {
  vocab_description from{.model = "llama", .pre = ""};
  from.tokens = {"<unk>", "<s>", "</s>"};
  from.types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    from.tokens.push_back({'<', '0', 'x', digits[byte / 16], digits[byte % 16], '>'});
    from.types.push_back(6);
  }
  from.scores.resize(from.tokens.size());
  const auto add = [&](const char* text, float score) {
    from.tokens.push_back(text);
    from.types.push_back(1);
    from.scores.push_back(score);
  };
  add("▁", -9), add("h", -8), add("i", -7), add("▁h", -3), add("hi", -2), add("▁hi", -1),
      add("é", -5);
  from.ids = {{"bos_token_id", 1}, {"eos_token_id", 2}, {"unknown_token_id", 0}};
  return from;
}

constexpr token_id space = 259, h = 260, i = 261, hi = 263, space_hi = 264, e_acute = 265;

TEST(spm_tokenizer, merges_by_score_and_adds_a_space) {
  const auto tokenizer = made(spm());
  EXPECT_EQ(tokenizer->description(), "SentencePiece BPE");
  EXPECT_THAT(tokenizer->encode("hi", true), ElementsAre(1u, space_hi));
  EXPECT_THAT(tokenizer->encode("hi hi", false), ElementsAre(space_hi, space_hi));
  EXPECT_THAT(tokenizer->encode("hhi", false), ElementsAre(262u, hi));
  EXPECT_THAT(tokenizer->encode("ih", false), ElementsAre(space, i, h));
  EXPECT_EQ(tokenizer->decode(std::vector<token_id>{space_hi, space, i}), " hi i");
}

TEST(spm_tokenizer, adds_the_space_only_at_starts) {
  const auto tokenizer = made(spm());
  EXPECT_THAT(tokenizer->encode("hi<s>hi", false, true), ElementsAre(space_hi, 1u, space_hi));
  auto from = spm();
  from.flags["add_space_prefix"] = false;
  EXPECT_THAT(made(from)->encode("hi hi", false), ElementsAre(hi, space_hi));
}

TEST(spm_tokenizer, falls_back_to_bytes) {
  const auto tokenizer = made(spm());
  EXPECT_THAT(tokenizer->encode("é", false), ElementsAre(space, e_acute));
  EXPECT_THAT(tokenizer->encode("è\xFF", false),
              ElementsAre(space, 3u + 0xC3, 3u + 0xA8, 3u + 0xFF));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("è\xFF\n", false)), " è\xFF\n");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("", false)), "");
}

TEST(spm_tokenizer, never_makes_control_or_byte_tokens_from_text) {
  auto from = spm();
  for (const char* text : {"<", "s", ">", "<s", "0", "x", "A", "<0", "<0x", "<0xA", "<0xA0"}) {
    from.tokens.push_back(text);
    from.types.push_back(1);
    from.scores.push_back(-4);
  }
  const auto tokenizer = made(from);
  for (const std::string text : {"<s>", "<0xA0>"}) {
    const auto ids = tokenizer->encode(text, false);
    EXPECT_EQ(tokenizer->decode(ids), " " + text);
    for (const token_id id : ids) EXPECT_GE(id, space);
  }
}

TEST(spm_tokenizer, runs_between_spaces_do_not_change_the_result) {
  // A token with an inner space turns the cut at spaces off; with a score below all others it never
  // wins.
  auto from = spm();
  from.tokens.push_back("i▁");
  from.types.push_back(1);
  from.scores.push_back(-100);
  const auto cut = made(spm()), whole = made(from);
  for (const char* text : {"hi hi  hi", "  hi", "hhi hih h", "hi   "}) {
    EXPECT_EQ(cut->encode(text, false), whole->encode(text, false)) << text;
  }
}

TEST(spm_tokenizer, refuses_what_is_not_a_byte_token) {
  for (const char* text : {"<0x-1>", "<0x1>", "<0xabc>", "<0xG0>", "<0xa0>", "0x41", ""}) {
    auto from = spm();
    from.tokens[10] = text;
    EXPECT_THAT(failure(from).detail, HasSubstr("is of type byte")) << text;
  }
  auto from = spm();
  from.scores.clear();
  EXPECT_THAT(failure(from).detail, HasSubstr("scores is missing"));
}

TEST(spm_tokenizer, long_run_is_bounded) {
  const auto tokenizer = made(spm());
  const std::string text(1 << 20, 'h');
  EXPECT_EQ(tokenizer->encode(text, false).size(), std::size_t{1} << 20);
}

}  // namespace
}  // namespace troupe::model
