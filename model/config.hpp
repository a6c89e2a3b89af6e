// Shape of a decoder-only transformer, under the names of Hugging Face's config.json.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace troupe::model {

enum class rope_scaling_kind : std::uint8_t { none, linear, yarn, llama3 };

// Rotary position embedding, Su et al. 2021 (arXiv 2104.09864). The scaling kinds are Hugging Face's.
struct rope_config {
  float theta = 10000.0f;
  std::uint32_t dimensions = 0;  // rotated part of a head, usually head_dim
  // true: pairs are (2i, 2i+1), as GGUF's llama stores q and k; false: (i, i + dimensions/2), as Hugging Face does.
  bool interleaved = true;
  rope_scaling_kind scaling = rope_scaling_kind::none;
  float factor = 1.0f;                                                 // linear, yarn, llama3
  float low_freq_factor = 1.0f;                                        // llama3
  float high_freq_factor = 4.0f;                                       // llama3
  std::uint32_t original_max_position_embeddings = 0;                  // yarn, llama3
  float beta_fast = 32.0f, beta_slow = 1.0f, attention_factor = 1.0f;  // yarn
  // Per-pair divisors of the frequency [dimensions/2] from the file (`rope_freqs.weight`); empty: none.
  std::vector<float> freq_factors = {};
};

// inv_freq[i] of pair i, [dimensions/2], after scaling; and the factor that multiplies cos and sin (1 but for yarn).
struct rope_frequencies {
  std::vector<float> inv_freq;
  float attention_factor = 1.0f;
};
rope_frequencies frequencies(const rope_config& rope);

struct model_config {
  std::string architecture;  // GGUF's general.architecture: "llama", "qwen2", ...
  std::string name;          // general.name, for people
  std::uint32_t vocab_size = 0;
  std::uint32_t hidden_size = 0;
  std::uint32_t intermediate_size = 0;
  std::uint32_t num_hidden_layers = 0;
  std::uint32_t num_attention_heads = 0;
  std::uint32_t num_key_value_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-5f;
  bool tie_word_embeddings = false;
  rope_config rope;
};

}  // namespace troupe::model
