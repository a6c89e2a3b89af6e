#include "model/synthetic.hpp"

#include <gtest/gtest.h>

#include "model/inspect.hpp"
#include "model/tokenizer.hpp"

namespace troupe::model {
namespace {

TEST(synthetic, opens_like_a_file) {
  const auto m = open_model(synthetic_path("tiny"));
  ASSERT_TRUE(m.has_value()) << to_string(m.error());
  EXPECT_EQ((*m)->synthetic, "tiny");
  EXPECT_EQ((*m)->config.vocab_size, 1000u);
  EXPECT_TRUE((*m)->weights.layers.empty());
  const auto other = open_model(synthetic_path("tiny:q4"));
  ASSERT_TRUE(other.has_value());
  EXPECT_NE((*m)->digest, (*other)->digest) << "other weights, another model";
}

TEST(synthetic, its_tokens_are_bytes) {
  const auto m = open_synthetic("tiny").value();
  const auto made = tokenizer::make(*m);
  ASSERT_TRUE(made.has_value()) << to_string(made.error());
  const tokenizer& t = **made;
  const std::string text = "Grüße, 42!\n";
  const auto ids = t.encode(text, true);
  ASSERT_EQ(ids.size(), text.size());
  for (std::size_t i = 0; i < ids.size(); ++i)
    EXPECT_EQ(ids[i], static_cast<unsigned char>(text[i]));
  EXPECT_EQ(t.decode(ids), text);
  EXPECT_EQ(t.vocab_size(), 1000u);
  EXPECT_EQ(t.token_bytes(999, false), "<|999|>");
  EXPECT_TRUE(t.end_of_generation().empty());
}

TEST(synthetic, unknown_names_list_the_known) {
  const auto m = open_model(synthetic_path("gpt-5"));
  ASSERT_FALSE(m.has_value());
  EXPECT_NE(to_string(m.error()).find("llama-3-8b"), std::string::npos);
  EXPECT_EQ(inspect(synthetic_path("llama-3-8b"))->architecture, "llama");
}

}  // namespace
}  // namespace troupe::model
