// Config from metadata, and rotary frequencies against values computed in Python from the papers' and transformers'
// formulas in double (Llama 3.2 1B: theta 500000, factor 32, 8192; Qwen2.5 with YaRN: theta 1e6, factor 4, 32768).
#include "model/config.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "model/model.hpp"
#include "tests/model/tiny_safetensors.hpp"

namespace troupe::testing {
namespace {

using model::open_model;
using model::rope_config;
using model::rope_scaling_kind;

void expect_frequencies(const rope_config& rope,
                        const std::vector<std::pair<std::size_t, float>>& wanted) {
  const auto got = model::frequencies(rope);
  ASSERT_EQ(got.inv_freq.size(), rope.dimensions / 2);
  for (auto [pair, value] : wanted) EXPECT_FLOAT_EQ(got.inv_freq[pair], value) << pair;
}

TEST(rope, plain_and_linear) {
  rope_config rope{.theta = 100000.0f, .dimensions = 64};
  expect_frequencies(rope,
                     {{0, 1.0f}, {1, 0.6978305578f}, {16, 0.0031622776f}, {31, 1.4330125850e-05f}});
  EXPECT_EQ(frequencies(rope).attention_factor, 1.0f);
  rope.scaling = rope_scaling_kind::linear;
  rope.factor = 4.0f;
  expect_frequencies(rope, {{0, 0.25f}, {16, 0.0031622776f / 4}});
}

TEST(rope, llama3) {
  const rope_config rope{.theta = 500000.0f,
                         .dimensions = 64,
                         .scaling = rope_scaling_kind::llama3,
                         .factor = 32.0f,
                         .low_freq_factor = 1.0f,
                         .high_freq_factor = 4.0f,
                         .original_max_position_embeddings = 8192};
  expect_frequencies(rope, {{0, 1.0f},
                            {1, 0.6636012197f},
                            {14, 0.0032114461f},
                            {15, 0.0012905479f},
                            {16, 0.0004295568f},
                            {17, 9.7082877e-05f},
                            {18, 1.9461639e-05f},
                            {31, 9.4183065e-08f}});
}

TEST(rope, yarn) {
  const rope_config rope{.theta = 1e6f,
                         .dimensions = 128,
                         .scaling = rope_scaling_kind::yarn,
                         .factor = 4.0f,
                         .original_max_position_embeddings = 32768,
                         .attention_factor = 1.25f};
  expect_frequencies(rope, {{0, 1.0f},
                            {23, 0.0069783060f},
                            {24, 0.0053753215f},
                            {31, 0.00080295972f},
                            {40, 4.4456985e-05f},
                            {63, 3.1023444e-07f}});
  EXPECT_EQ(frequencies(rope).attention_factor, 1.25f);
}

TEST(rope, factors_of_the_file_divide) {
  rope_config rope{.theta = 10000.0f, .dimensions = 4};
  rope.freq_factors = {1.0f, 8.0f};
  expect_frequencies(rope, {{0, 1.0f}, {1, 0.01f / 8}});
}

model::model_config open_with(const std::function<void(gguf_writer&)>& add,
                              const tiny_model& m = {},
                              std::set<std::string, std::less<>> without = {}) {
  temporary_directory dir;
  auto file = tiny_gguf(m, std::move(without));
  add(file);
  write_file(dir / "tiny.gguf", file.finish());
  auto opened = open_model(dir / "tiny.gguf");
  if (!opened) throw std::runtime_error(opened.error().detail);
  return (*opened)->config;
}

TEST(config, rope_scaling_of_a_gguf) {
  EXPECT_EQ(open_with([](auto&) {}).rope.scaling, rope_scaling_kind::none);
  auto linear = open_with([](auto& f) {
    f.add("llama.rope.scaling.type", "linear");
    f.add("llama.rope.scaling.factor", 2.0f);
  });
  EXPECT_EQ(linear.rope.scaling, rope_scaling_kind::linear);
  EXPECT_EQ(linear.rope.factor, 2.0f);
  EXPECT_EQ(open_with([](auto& f) { f.add("llama.rope.scale_linear", 3.0f); }).rope.factor, 3.0f);
  auto yarn = open_with([](auto& f) {
    f.add("llama.rope.scaling.type", "yarn");
    f.add("llama.rope.scaling.factor", 4.0f);
    f.add("llama.rope.scaling.original_context_length", 128u);
  });
  EXPECT_EQ(yarn.rope.scaling, rope_scaling_kind::yarn);
  EXPECT_EQ(yarn.rope.original_max_position_embeddings, 128u);
  EXPECT_FLOAT_EQ(yarn.rope.attention_factor, 0.1f * std::log(4.0f) + 1.0f);
}

TEST(config, rope_freqs_of_llama_3) {
  auto config = open_with([](auto&) {}, {.rope_freqs = true});
  ASSERT_EQ(config.rope.freq_factors.size(), 8u);
  EXPECT_NEAR(config.rope.freq_factors[3], 2.0f, 0.11f);
}

TEST(config, context_ends_at_the_sliding_window) {
  EXPECT_EQ(open_with([](auto& f) {
              f.add("llama.attention.sliding_window", 100u);
            }).max_position_embeddings,
            100u);
  EXPECT_EQ(open_with([](auto& f) {
              f.add("llama.attention.sliding_window", 100'000u);
            }).max_position_embeddings,
            512u);
}

TEST(config, defaults_where_the_file_is_silent) {
  auto config = open_with([](auto&) {}, {},
                          {"llama.attention.key_length", "llama.attention.value_length",
                           "llama.rope.dimension_count", "llama.rope.freq_base", "general.name"});
  EXPECT_EQ(config.head_dim, 16u);
  EXPECT_EQ(config.rope.dimensions, 16u);
  EXPECT_EQ(config.rope.theta, 10000.0f);
  EXPECT_EQ(config.name, "");
}

TEST(config, integers_of_any_width_are_read) {
  auto config = open_with(
      [](auto& f) {
        f.key("llama.block_count", model::value_type::u64).put(std::uint64_t{2});
        f.key("llama.context_length", model::value_type::i16).put(std::int16_t{256});
      },
      {}, {"llama.block_count", "llama.context_length"});
  EXPECT_EQ(config.num_hidden_layers, 2u);
  EXPECT_EQ(config.max_position_embeddings, 256u);
}

model::model_config open_hf(const nlohmann::json& extra, const tiny_model& m = {}) {
  temporary_directory dir;
  write_tiny_hugging_face(dir / "hf", m);
  auto config = tiny_config(m);
  config.merge_patch(extra);
  write_file(dir / "hf/config.json", config.dump());
  auto opened = open_model(dir / "hf");
  if (!opened) throw std::runtime_error(opened.error().detail);
  return (*opened)->config;
}

TEST(config, rope_scaling_of_hugging_face) {
  const auto llama3 = open_hf({{"rope_scaling",
                                {{"rope_type", "llama3"},
                                 {"factor", 8.0},
                                 {"low_freq_factor", 1.0},
                                 {"high_freq_factor", 4.0},
                                 {"original_max_position_embeddings", 8192}}}})
                          .rope;
  EXPECT_EQ(llama3.scaling, rope_scaling_kind::llama3);
  EXPECT_EQ(llama3.factor, 8.0f);
  EXPECT_EQ(llama3.original_max_position_embeddings, 8192u);
  const auto yarn =
      open_hf({{"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"attention_factor", 1.5}}}})
          .rope;
  EXPECT_EQ(yarn.scaling, rope_scaling_kind::yarn);
  EXPECT_EQ(yarn.attention_factor, 1.5f);
  // As transformers 5 writes it.
  const auto joined =
      open_hf({{"rope_theta", nullptr},
               {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}}}})
          .rope;
  EXPECT_EQ(joined.scaling, rope_scaling_kind::none);
  EXPECT_EQ(joined.theta, 5e5f);
}

TEST(config, qwen_uses_its_window_only_when_told) {
  const tiny_model qwen{.architecture = "qwen2"};
  EXPECT_EQ(open_hf({{"sliding_window", 64}}, qwen).max_position_embeddings, 512u);
  EXPECT_EQ(
      open_hf({{"sliding_window", 64}, {"use_sliding_window", true}}, qwen).max_position_embeddings,
      64u);
  EXPECT_EQ(open_hf({{"sliding_window", 64}}).max_position_embeddings, 64u);
}

}  // namespace
}  // namespace troupe::testing
