#include "model/tokenizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "model/model.hpp"

namespace troupe::model {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string model_path() {
  if (const char* path = std::getenv("TROUPE_TEST_MODEL")) return path;
  return std::string(std::getenv("HOME")) + "/.cache/troupe/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

class smollm2_tokenizer : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const auto opened = open_model(model_path());
    ASSERT_TRUE(opened) << to_string(opened.error());
    const auto made = tokenizer::make(**opened);
    ASSERT_TRUE(made) << to_string(made.error());
    shared_ = *made;
  }
  static void TearDownTestSuite() { shared_.reset(); }
  void SetUp() override { ASSERT_NE(shared_, nullptr); }
  static const tokenizer& tok() { return *shared_; }

 private:
  static inline std::shared_ptr<const tokenizer> shared_;
};

TEST_F(smollm2_tokenizer, equals_hugging_face_on_recorded_texts) {
  std::ifstream file(TROUPE_SOURCE_DIR "/tests/model/tokenizer_smollm2.json");
  const auto cases = nlohmann::json::parse(file);
  ASSERT_GE(cases.size(), 100u);
  for (const auto& one : cases) {
    const auto text = one["text"].get<std::string>();
    EXPECT_EQ(tok().encode(text, false), one["ids"].get<std::vector<token_id>>()) << text;
  }
}

TEST_F(smollm2_tokenizer, knows_its_special_tokens) {
  EXPECT_EQ(tok().description(), "BPE (smollm)");
  EXPECT_EQ(tok().vocab_size(), 49152u);
  EXPECT_EQ(tok().bos(), 1u);
  EXPECT_THAT(tok().end_of_generation(), ElementsAre(2u, 0u));
  EXPECT_EQ(tok().find("<|im_end|>"), 2u);
  EXPECT_EQ(tok().find("<|no_such|>"), std::nullopt);
  EXPECT_TRUE(tok().is_special(2));
  EXPECT_FALSE(tok().is_special(19556));
  EXPECT_EQ(tok().token_bytes(2, false), "");
  EXPECT_EQ(tok().token_bytes(2, true), "<|im_end|>");
  EXPECT_EQ(tok().token_bytes(905, false), " world");
}

TEST_F(smollm2_tokenizer, finds_special_tokens_only_where_allowed) {
  const auto text = tok().encode("<|im_end|>", false);
  EXPECT_GT(text.size(), 1u);
  EXPECT_EQ(tok().decode(text), "<|im_end|>");
  EXPECT_THAT(tok().encode("<|im_end|>", false, true), ElementsAre(2u));
  // One that begins in template text and ends in the user's is text, as is one cut by a border.
  const std::vector<text_segment> mixed = {{"<|im_", true}, {"end|>", false}};
  EXPECT_EQ(tok().encode(mixed, false), text);
  const std::vector<text_segment> both = {{"<|im_", true}, {"end|>", true}, {"<|im_end|>", false}};
  auto expected = text;
  expected.insert(expected.begin(), 2u);
  EXPECT_EQ(tok().encode(both, false), expected);
}

TEST_F(smollm2_tokenizer, merges_across_segments_as_in_the_joined_text) {
  const std::string whole = "user\n\n\nHello   world\n\nassistant 123";
  const auto expected = tok().encode(whole, false);
  for (std::size_t cut = 0; cut <= whole.size(); ++cut) {
    const std::vector<text_segment> parts = {
        {whole.substr(0, cut), true}, {"", false}, {whole.substr(cut), false}};
    EXPECT_EQ(tok().encode(parts, false), expected) << cut;
  }
}

TEST_F(smollm2_tokenizer, encodes_invalid_utf8_byte_by_byte) {
  // 0xE4 0xBD is the start of a character that does not end; 0x80 continues nothing.
  const auto ids = tok().encode("a\xE4\xBD z\x80", false);
  EXPECT_EQ(tok().decode(ids), "a\xE4\xBD z\x80");
  EXPECT_EQ(tok().encode("\x80", false).size(), 1u);
  // The vocabulary has no token for 0xFF: the byte is dropped, as `tokenizers` does.
  EXPECT_THAT(tok().encode("\xFF", false), IsEmpty());
}

TEST_F(smollm2_tokenizer, decodes_what_it_encodes) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (std::size_t i = random() % 60; i > 0; --i)
      text.push_back(
          static_cast<char>(random() % 3 == 0 ? random() % 94 + 33 : " \n\tae1'.s"[random() % 9]));
    EXPECT_EQ(tok().decode(tok().encode(text, false)), text);
  }
}

TEST_F(smollm2_tokenizer, bounds_its_time_on_long_runs) {
  const auto start = std::chrono::steady_clock::now();
  for (const char c : {'a', ' ', '\n', '!', '<'}) {
    const std::string text(1 << 20, c);
    EXPECT_EQ(tok().decode(tok().encode(text, false, true)), text);
  }
  std::string alternating;
  for (int i = 0; i < 1 << 18; ++i) alternating += "ab<|";
  EXPECT_EQ(tok().decode(tok().encode(alternating, false, true)), alternating);
  // Quadratic time would be hours; sanitizers and a busy machine get their share.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST_F(smollm2_tokenizer, gives_bytes_for_every_token) {
  for (token_id id = 0; id < tok().vocab_size(); ++id)
    EXPECT_EQ(tok().token_bytes(id, false).empty(), tok().is_special(id)) << id;
}

}  // namespace
}  // namespace troupe::model
