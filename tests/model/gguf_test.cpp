// GGUF files that are right: the default model, tiny models of every type and architecture, shards.
#include <gtest/gtest.h>

#include "model/gguf.hpp"
#include "model/metadata.hpp"
#include "model/model.hpp"
#include "tests/model/default_model.hpp"
#include "tests/model/tiny_gguf.hpp"

namespace troupe::testing {
namespace {

using model::open_model;
using model::tensor_type;

TEST(gguf, opens_the_default_model) {
  auto opened = open_model(default_model());
  ASSERT_TRUE(opened) << to_string(opened.error());
  const auto& config = (*opened)->config;
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.vocab_size, 49152u);
  EXPECT_EQ(config.hidden_size, 576u);
  EXPECT_EQ(config.intermediate_size, 1536u);
  EXPECT_EQ(config.num_hidden_layers, 30u);
  EXPECT_EQ(config.num_attention_heads, 9u);
  EXPECT_EQ(config.num_key_value_heads, 3u);
  EXPECT_EQ(config.head_dim, 64u);
  EXPECT_EQ(config.max_position_embeddings, 8192u);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_TRUE(config.rope.interleaved);
  EXPECT_EQ(config.rope.theta, 100000.0f);
  EXPECT_FLOAT_EQ(config.rms_norm_eps, 1e-5f);
  const auto& weights = (*opened)->weights;
  EXPECT_EQ(weights.embed_tokens.type, tensor_type::q8_0);
  EXPECT_EQ(weights.lm_head.data.data(), weights.embed_tokens.data.data());
  ASSERT_EQ(weights.layers.size(), 30u);
  EXPECT_EQ(weights.layers[29].down_proj.type, tensor_type::q4_1);
  EXPECT_EQ(weights.layers[29].down_proj.rows, 576u);
  EXPECT_EQ(weights.layers[29].down_proj.columns, 1536u);
  EXPECT_FALSE(weights.layers[0].q_bias.exists());
  EXPECT_EQ((*opened)->meta->get<std::string>("tokenizer.ggml.pre").value(), "smollm");
  EXPECT_EQ((*opened)->meta->strings("tokenizer.ggml.tokens").value().size(), 49152u);
}

class tiny_types : public ::testing::TestWithParam<tensor_type> {};

TEST_P(tiny_types, open_with_the_shapes_that_were_written) {
  temporary_directory dir;
  for (std::string architecture : {"llama", "qwen2", "qwen3"}) {
    write_tiny_gguf(dir / "tiny.gguf",
                    {.architecture = architecture, .type = GetParam(), .tied = false});
    auto opened = open_model(dir / "tiny.gguf");
    ASSERT_TRUE(opened) << architecture << ": " << to_string(opened.error());
    const auto& m = **opened;
    EXPECT_EQ(m.config.architecture, architecture);
    EXPECT_EQ(m.config.vocab_size, tiny_vocab_size);
    EXPECT_EQ(m.config.rope.interleaved, architecture == "llama");
    EXPECT_FALSE(m.config.tie_word_embeddings);
    ASSERT_EQ(m.weights.layers.size(), 2u);
    const auto& layer = m.weights.layers[1];
    EXPECT_EQ(layer.q_bias.exists(), architecture == "qwen2");
    EXPECT_EQ(layer.k_norm.exists(), architecture == "qwen3");
    EXPECT_EQ(layer.down_proj.type, GetParam());
    // Weights are near the scale that was asked for: the layout of blocks is understood.
    std::vector<float> row(layer.down_proj.columns);
    double sum = 0;
    for (std::uint64_t r = 0; r < layer.down_proj.rows; ++r) {
      dequantize_row(layer.down_proj, r, row);
      for (float value : row) sum += static_cast<double>(value) * value;
    }
    const double rms = std::sqrt(sum / static_cast<double>(layer.down_proj.rows * row.size()));
    const double wanted = 1 / std::sqrt(static_cast<double>(row.size()));
    EXPECT_GT(rms, wanted * 0.5);
    EXPECT_LT(rms, wanted * 2);
  }
}

INSTANTIATE_TEST_SUITE_P(gguf, tiny_types,
                         ::testing::Values(tensor_type::f32, tensor_type::f16, tensor_type::bf16,
                                           tensor_type::q8_0, tensor_type::q4_0, tensor_type::q4_1,
                                           tensor_type::q5_0, tensor_type::q5_1, tensor_type::q4_k,
                                           tensor_type::q5_k, tensor_type::q6_k),
                         [](const auto& param) {
                           return std::string(model::info(param.param).name);
                         });

}  // namespace
}  // namespace troupe::testing
