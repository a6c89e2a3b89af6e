// A small random Llama (or Qwen) GGUF of any supported type, for tests of every room: a few hundred
// KB, a byte-level vocabulary that encodes any text, weights scaled so that activations stay near
// one. Deterministic: one `tiny_model`, one file, byte for byte. Header only.
//
//   temporary_directory dir;
//   write_tiny_gguf(dir / "tiny.gguf", {.type = model::tensor_type::q4_k});
//   auto model = model::open_model(dir / "tiny.gguf");
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "tests/model/gguf_writer.hpp"

namespace troupe::testing {

struct tiny_model {
  std::string architecture = "llama";  // llama, qwen2 (biases), qwen3 (q and k norms)
  model::tensor_type type = model::tensor_type::f32;            // of the projections
  model::tensor_type embedding_type = model::tensor_type::f32;  // of embedding and lm_head
  // For K types hidden_size, intermediate_size and heads * head_dim are raised to 256.
  std::uint32_t hidden_size = 64;
  std::uint32_t intermediate_size = 128;
  std::uint32_t num_hidden_layers = 2;
  std::uint32_t num_attention_heads = 4;
  std::uint32_t num_key_value_heads = 2;
  std::uint32_t head_dim = 16;
  std::uint32_t context = 512;
  float rope_theta = 10000.0f;
  bool tied = true;
  bool rope_freqs = false;  // a rope_freqs.weight, as Llama 3 has
  std::uint64_t seed = 1;
};

// SplitMix64 (Steele et al. 2014): the same numbers with every standard library.
struct test_random {
  std::uint64_t state;
  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  float uniform() {
    return static_cast<float>(static_cast<std::int64_t>(next() >> 40) - (1 << 23)) * 0x1p-23f;
  }  // [-1, 1)
};

// Toward zero; REQUIRES: |value| < 65536.
inline std::uint16_t to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const int exponent = static_cast<int>((bits >> 23) & 255) - 112;
  if (exponent <= 0)
    return static_cast<std::uint16_t>(sign | static_cast<int>(std::fabs(value) * 0x1p24f));
  return static_cast<std::uint16_t>(sign | (exponent << 10) | ((bits >> 13) & 0x3ffu));
}

// rows * columns random values of about uniform [-scale, scale], as blocks of `type`.
inline std::vector<std::byte> random_weights(model::tensor_type type, std::uint64_t rows,
                                             std::uint64_t columns, float scale,
                                             test_random& random) {
  using model::tensor_type;
  const auto& about = model::info(type);
  if (columns % about.block_size != 0) throw std::runtime_error("columns are not whole blocks");
  std::vector<std::byte> out(rows * columns / about.block_size * about.block_bytes);
  auto half_at = [&](std::byte* at, float value) {
    const auto bits = to_half(value);
    std::memcpy(at, &bits, sizeof bits);
  };
  for (std::size_t i = 0; i < out.size(); i += about.block_bytes) {
    std::byte* block = out.data() + i;
    for (std::uint32_t b = 0; b < about.block_bytes; ++b)
      block[b] = static_cast<std::byte>(random.next() >> 56);
    const float value = random.uniform() * scale;
    switch (type) {
      case tensor_type::f32:
        std::memcpy(block, &value, 4);
        break;
      case tensor_type::f16:
        half_at(block, value);
        break;
      case tensor_type::bf16: {
        const auto bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
        std::memcpy(block, &bits, 2);
        break;
      }
      case tensor_type::f8_e4m3:  // whose scale lies elsewhere; no NaN
        if ((block[0] & std::byte{0x7f}) == std::byte{0x7f}) block[0] = std::byte{0x78};
        break;
      case tensor_type::q4_0:
        half_at(block, scale / 8);
        break;
      case tensor_type::q4_1:
        half_at(block, scale / 7.5f), half_at(block + 2, -scale);
        break;
      case tensor_type::q5_0:
        half_at(block, scale / 16);
        break;
      case tensor_type::q5_1:
        half_at(block, scale / 15.5f), half_at(block + 2, -scale);
        break;
      case tensor_type::q8_0:
        half_at(block, scale / 127);
        break;
      case tensor_type::q4_k:
        half_at(block, scale / 232), half_at(block + 2, scale / 31);
        break;
      case tensor_type::q5_k:
        half_at(block, scale / 480), half_at(block + 2, scale / 31);
        break;
      case tensor_type::q6_k:
        half_at(block + 208, scale / 2048);
        break;
    }
  }
  return out;
}

// GPT-2's printable stand-in for each byte (openai/gpt-2, encoder.py, bytes_to_unicode), as UTF-8.
inline std::string byte_token(int byte) {
  auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += !printable(b);
  }
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 63))};
}

// 0 <|endoftext|>, 1 <|im_start|> (bos), 2 <|im_end|> (eos), 3..258 the bytes, then one token a
// merge.
inline void add_tiny_vocabulary(gguf_writer& file) {
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  std::vector<std::int32_t> types(3, 3);  // control
  for (int b = 0; b < 256; ++b) tokens.push_back(byte_token(b));
  const std::string space = byte_token(' ');
  const std::vector<std::string> merges = {space + " t", "h e", space + "t he", "i n", "l l"};
  for (std::string merge : merges) tokens.push_back(merge.erase(merge.find(' '), 1));
  types.resize(tokens.size(), 1);  // normal
  file.add("tokenizer.ggml.model", "gpt2");
  file.add("tokenizer.ggml.pre", "smollm");
  file.add("tokenizer.ggml.tokens", tokens);
  file.add("tokenizer.ggml.token_type", types);
  file.add("tokenizer.ggml.merges", merges);
  file.add("tokenizer.ggml.bos_token_id", 1u);
  file.add("tokenizer.ggml.eos_token_id", 2u);
  file.add("tokenizer.ggml.unknown_token_id", 0u);
  file.add("tokenizer.ggml.add_bos_token", false);
  file.add("tokenizer.chat_template",
           "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
           "message['content'] + "
           "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ "
           "'<|im_start|>assistant\\n' }}{% endif %}");
}
inline constexpr std::uint32_t tiny_vocab_size = 3 + 256 + 5;

inline tiny_model fitted(tiny_model m) {
  auto k_type = [](model::tensor_type type) { return model::info(type).block_size == 256; };
  if (k_type(m.type) || k_type(m.embedding_type)) {
    m.hidden_size = std::max(m.hidden_size, 256u);
    m.intermediate_size = std::max(m.intermediate_size, 256u);
    m.head_dim = std::max(m.head_dim, 256u / m.num_attention_heads);
  }
  return m;
}

inline void add_tiny_settings(gguf_writer& file, const tiny_model& m) {
  const std::string prefix = m.architecture + ".";
  file.add("general.architecture", m.architecture);
  file.add("general.name", "Tiny");
  file.add(prefix + "block_count", m.num_hidden_layers);
  file.add(prefix + "context_length", m.context);
  file.add(prefix + "embedding_length", m.hidden_size);
  file.add(prefix + "feed_forward_length", m.intermediate_size);
  file.add(prefix + "attention.head_count", m.num_attention_heads);
  file.add(prefix + "attention.head_count_kv", m.num_key_value_heads);
  file.add(prefix + "attention.key_length", m.head_dim);
  file.add(prefix + "attention.value_length", m.head_dim);
  file.add(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
  file.add(prefix + "rope.freq_base", m.rope_theta);
  file.add(prefix + "rope.dimension_count", m.head_dim);
}

inline void add_tiny_tensors(gguf_writer& file, const tiny_model& m) {
  using model::tensor_type;
  test_random random{m.seed};
  auto matrix = [&](const std::string& name, tensor_type type, std::uint32_t rows,
                    std::uint32_t columns) {
    const float scale = std::sqrt(3.0f / static_cast<float>(columns));
    file.add_tensor(name, type, {columns, rows},
                    random_weights(type, rows, columns, scale, random));
  };
  // Around `center`: norms near one, biases near zero.
  auto vector = [&](const std::string& name, std::uint32_t size, float center) {
    std::vector<float> values(size);
    for (auto& value : values) value = center + 0.1f * random.uniform();
    file.add_tensor(name, tensor_type::f32, {size}, std::as_bytes(std::span(values)));
  };
  const std::uint32_t query = m.num_attention_heads * m.head_dim,
                      kv = m.num_key_value_heads * m.head_dim;
  matrix("token_embd.weight", m.embedding_type, tiny_vocab_size, m.hidden_size);
  vector("output_norm.weight", m.hidden_size, 1.0f);
  if (!m.tied) matrix("output.weight", m.embedding_type, tiny_vocab_size, m.hidden_size);
  if (m.rope_freqs) vector("rope_freqs.weight", m.head_dim / 2, 2.0f);
  for (std::uint32_t i = 0; i < m.num_hidden_layers; ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    vector(layer + "attn_norm.weight", m.hidden_size, 1.0f);
    matrix(layer + "attn_q.weight", m.type, query, m.hidden_size);
    matrix(layer + "attn_k.weight", m.type, kv, m.hidden_size);
    matrix(layer + "attn_v.weight", m.type, kv, m.hidden_size);
    matrix(layer + "attn_output.weight", m.type, m.hidden_size, query);
    if (m.architecture == "qwen2") {
      vector(layer + "attn_q.bias", query, 0.0f);
      vector(layer + "attn_k.bias", kv, 0.0f);
      vector(layer + "attn_v.bias", kv, 0.0f);
    }
    if (m.architecture == "qwen3") {
      vector(layer + "attn_q_norm.weight", m.head_dim, 1.0f);
      vector(layer + "attn_k_norm.weight", m.head_dim, 1.0f);
    }
    vector(layer + "ffn_norm.weight", m.hidden_size, 1.0f);
    matrix(layer + "ffn_gate.weight", m.type, m.intermediate_size, m.hidden_size);
    matrix(layer + "ffn_up.weight", m.type, m.intermediate_size, m.hidden_size);
    matrix(layer + "ffn_down.weight", m.type, m.hidden_size, m.intermediate_size);
  }
}

// The writer before finish(), for tests that break something first; without the keys and tensors
// named.
inline gguf_writer tiny_gguf(const tiny_model& wanted = {},
                             std::set<std::string, std::less<>> without = {}) {
  const tiny_model m = fitted(wanted);
  gguf_writer file;
  file.omitted = std::move(without);
  add_tiny_settings(file, m);
  add_tiny_vocabulary(file);
  add_tiny_tensors(file, m);
  file.omitted.clear();
  return file;
}

inline void write_tiny_gguf(const std::filesystem::path& path, const tiny_model& wanted = {}) {
  write_file(path, tiny_gguf(wanted).finish());
}

}  // namespace troupe::testing
