// A loaded model: config, weights as views into the mapped file, and the file's identity.
//
// `open_model` reads a GGUF (v2, v3; every count, product and sum is bounds-checked) or a Hugging Face directory of
// safetensors. It maps, it does not copy: pages are read when the device takes the weights. Immutable after open,
// so any thread.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/hash.hpp"
#include "base/result.hpp"
#include "model/config.hpp"
#include "model/tensor.hpp"

namespace troupe::model {

// Weights of one decoder layer. Optional tensors have exists() == false.
struct layer_weights {
  tensor attn_norm;               // [1][hidden_size]
  tensor q_proj;                  // [num_attention_heads * head_dim][hidden_size]
  tensor k_proj;                  // [num_key_value_heads * head_dim][hidden_size]
  tensor v_proj;                  // [num_key_value_heads * head_dim][hidden_size]
  tensor o_proj;                  // [hidden_size][num_attention_heads * head_dim]
  tensor q_bias, k_bias, v_bias;  // optional, Qwen2
  tensor q_norm, k_norm;          // optional [1][head_dim], Qwen3
  tensor ffn_norm;                // [1][hidden_size]
  tensor gate_proj;               // [intermediate_size][hidden_size]
  tensor up_proj;                 // [intermediate_size][hidden_size]
  tensor down_proj;               // [hidden_size][intermediate_size]
};

struct model_weights {
  tensor embed_tokens;  // [vocab_size][hidden_size]
  std::vector<layer_weights> layers;
  tensor norm;     // [1][hidden_size]
  tensor lm_head;  // [vocab_size][hidden_size]; the embedding itself when tied
};

class metadata;  // key/value pairs of the file: model/metadata.hpp

struct loaded_model {
  model_config config;
  model_weights weights;
  hash128_t digest;  // of every byte that decides an answer: equal digests, equal model
  std::shared_ptr<const metadata> meta;  // tokenizer and chat template are built from it
  std::shared_ptr<const void> mapping;   // keeps the bytes alive that the tensors view
  std::uint64_t file_bytes = 0;
  std::string
      synthetic;  // not empty: no file and no weights, the device makes them (synthetic.hpp)
};

// Or what synthetic_path() gives.
result<std::shared_ptr<const loaded_model>> open_model(const std::filesystem::path& path);

}  // namespace troupe::model
