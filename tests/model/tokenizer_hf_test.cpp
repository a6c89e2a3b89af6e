// tokenizer.json by hand; equality with `tokenizers` on real ones is tests/reference/tokenizer_reference.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/metadata.hpp"
#include "model/tokenizer_base.hpp"

namespace troupe::model {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json small() {
  return json::parse(R"({
    "added_tokens": [{"id": 6, "content": "<s>", "special": true}, {"id": 8, "content": "<think>", "special": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\p{N}{1,2}|[^\\p{N}]+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "post_processor": {"type": "TemplateProcessing", "single": [
      {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
    "model": {"type": "BPE", "ignore_merges": false, "vocab": {"a": 0, "b": 1, "ab": 2, "1": 3, "11": 4, "Ġ": 5},
              "merges": ["a b", ["1", "1"]]}})");
}

result<std::shared_ptr<const tokenizer>> make(const json& from,
                                              std::vector<std::uint32_t> ends = {}) {
  metadata meta("test");
  meta.set_string(metadata_keys::hf_tokenizer_json, from.dump());
  if (!ends.empty())
    meta.set_numbers(metadata_keys::hf_eos_token_ids, value_type::u32,
                     std::as_bytes(std::span(ends)));
  return make_tokenizer(meta, 12);
}

std::string failure(const json& from) {
  const auto made = make(from);
  return made ? "no error" : to_string(made.error());
}

TEST(hf_tokenizer, reads_vocabulary_merges_and_pattern) {
  const auto tok = make(small(), {6, 8, 999});
  ASSERT_TRUE(tok) << to_string(tok.error());
  EXPECT_THAT((*tok)->encode("ab 111", false), ElementsAre(2u, 5u, 4u, 3u));
  EXPECT_THAT((*tok)->encode("a<s><think>", true, true), ElementsAre(6u, 0u, 6u, 8u));
  EXPECT_EQ((*tok)->bos(), 6u);
  EXPECT_THAT((*tok)->end_of_generation(), ElementsAre(6u, 8u));
  EXPECT_TRUE((*tok)->is_special(6));
  EXPECT_FALSE((*tok)->is_special(8));
  // Ids that no token has, and rows beyond the vocabulary, stand for nothing.
  EXPECT_EQ((*tok)->vocab_size(), 12u);
  EXPECT_EQ((*tok)->token_bytes(7, true), "");
  EXPECT_EQ((*tok)->token_bytes(11, true), "");
  EXPECT_EQ((*tok)->find(""), std::nullopt);
}

TEST(hf_tokenizer, reads_each_kind_of_pre_tokenizer) {
  auto from = small();
  from["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  EXPECT_THAT((*make(from))->encode("111", false), ElementsAre(4u, 3u));
  from["pre_tokenizer"] = json::parse(
      R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, {"type": "ByteLevel"}]})");
  EXPECT_THAT((*make(from))->encode("111", false), ElementsAre(3u, 3u, 3u));
  from["pre_tokenizer"]["pretokenizers"][0] = {
      {"type", "Split"}, {"pattern", {{"String", "b"}}}, {"behavior", "Isolated"}};
  EXPECT_THAT((*make(from))->encode("ab", false), ElementsAre(0u, 1u));
}

TEST(hf_tokenizer, says_what_it_can_not_do) {
  auto from = small();
  from["model"]["type"] = "Unigram";
  EXPECT_THAT(failure(from), HasSubstr("unsupported: tokenizer.json: the model 'Unigram'"));
  from = small();
  from["model"]["byte_fallback"] = true;
  EXPECT_THAT(failure(from), HasSubstr("byte_fallback"));
  from = small();
  from["pre_tokenizer"] = nullptr;
  EXPECT_THAT(failure(from), HasSubstr("unsupported"));
  from = small();
  from["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(";
  EXPECT_THAT(failure(from), HasSubstr("pattern '('"));
  from = small();
  from["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_THAT(failure(from), HasSubstr("Lowercase"));
}

TEST(hf_tokenizer, refuses_damaged_files) {
  for (const json& id : {json(-1), json(1u << 30), json("7"), json(1.5), json(nullptr)}) {
    auto from = small();
    from["added_tokens"][0]["id"] = id;
    EXPECT_THAT(failure(from), HasSubstr("corrupt_file: tokenizer.json: the id of token '<s>'"))
        << id;
  }
  auto from = small();
  from["model"]["merges"][0] = {"a"};
  EXPECT_THAT(failure(from), HasSubstr("merge 0 is not a pair"));
  from["model"]["merges"][0] = "a z";
  EXPECT_THAT(failure(from), HasSubstr("not in the vocabulary"));
  from = small();
  from.erase("model");
  EXPECT_THAT(failure(from), HasSubstr("model.vocab"));
  EXPECT_FALSE(make(json::array()));
}

}  // namespace
}  // namespace troupe::model
