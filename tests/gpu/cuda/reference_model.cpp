#include "tests/gpu/cuda/reference_model.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace troupe::gpu::cuda {
namespace {

using model::tensor;
using model::tensor_type;

struct storage {
  std::vector<std::vector<std::byte>> arrays;
};

std::uint16_t bf16_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

tensor random_tensor(storage& to, std::uint64_t rows, std::uint64_t columns, float mean,
                     float deviation, tensor_type type, std::mt19937& random) {
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<std::byte> data(rows * columns * (type == tensor_type::bf16 ? 2 : 4));
  for (std::uint64_t i = 0; i < rows * columns; ++i) {
    const float x = normal(random);
    const std::uint16_t half = bf16_bits(x);
    if (type == tensor_type::bf16) {
      std::memcpy(data.data() + 2 * i, &half, 2);
    } else {
      std::memcpy(data.data() + 4 * i, &x, 4);
    }
  }
  to.arrays.push_back(std::move(data));
  return {"random", type, rows, columns, to.arrays.back()};
}

using matrix = std::vector<double>;  // [rows][columns]

matrix values_of(const tensor& t) {
  matrix out(t.rows * t.columns);
  std::vector<float> row(t.columns);
  for (std::uint64_t r = 0; r < t.rows; ++r) {
    model::dequantize_row(t, r, row);
    std::copy(row.begin(), row.end(), out.begin() + static_cast<std::ptrdiff_t>(r * t.columns));
  }
  return out;
}
matrix multiply(const matrix& x, const tensor& w) {
  const matrix weights = values_of(w);
  const std::size_t depth = w.columns, rows = x.size() / depth;
  matrix y(rows * w.rows);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t f = 0; f < w.rows; ++f) {
      double sum = 0;
      for (std::size_t k = 0; k < depth; ++k) sum += x[r * depth + k] * weights[f * depth + k];
      y[r * w.rows + f] = sum;
    }
  }
  return y;
}
void add_bias(matrix& x, const tensor& bias) {
  if (!bias.exists()) return;
  const matrix b = values_of(bias);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += b[i % b.size()];
}
// Each run of weight.columns values.
matrix normalize(const matrix& x, const tensor& weight, double epsilon) {
  const matrix w = values_of(weight);
  matrix y(x.size());
  for (std::size_t at = 0; at < x.size(); at += w.size()) {
    double squares = 0;
    for (std::size_t i = 0; i < w.size(); ++i) squares += x[at + i] * x[at + i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(w.size()) + epsilon);
    for (std::size_t i = 0; i < w.size(); ++i) y[at + i] = x[at + i] * scale * w[i];
  }
  return y;
}
void rotate(matrix& x, std::uint32_t heads, const model::model_config& c) {
  const auto rope = model::frequencies(c.rope);
  const std::size_t dim = c.head_dim, pairs = rope.inv_freq.size();
  for (std::size_t at = 0; at < x.size(); at += dim) {
    const double position = static_cast<double>(at / (heads * dim));
    for (std::size_t p = 0; p < pairs; ++p) {
      const std::size_t i = at + (c.rope.interleaved ? 2 * p : p),
                        j = at + (c.rope.interleaved ? 2 * p + 1 : p + pairs);
      const double angle = position * rope.inv_freq[p], a = x[i], b = x[j];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[j] = a * std::sin(angle) + b * std::cos(angle);
    }
  }
}
matrix attend(const matrix& q, const matrix& k, const matrix& v, const model::model_config& c) {
  const std::size_t dim = c.head_dim, heads = c.num_attention_heads,
                    kv_heads = c.num_key_value_heads;
  const std::size_t rows = q.size() / (heads * dim);
  matrix out(q.size());
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t h = 0; h < heads; ++h) {
      const std::size_t kv = h / (heads / kv_heads);
      std::vector<double> s(r + 1);
      for (std::size_t p = 0; p <= r; ++p) {
        for (std::size_t d = 0; d < dim; ++d)
          s[p] += q[(r * heads + h) * dim + d] * k[(p * kv_heads + kv) * dim + d];
        s[p] /= std::sqrt(static_cast<double>(dim));
      }
      const double highest = *std::max_element(s.begin(), s.end());
      double sum = 0;
      for (auto& p : s) sum += p = std::exp(p - highest);
      for (std::size_t p = 0; p <= r; ++p) {
        for (std::size_t d = 0; d < dim; ++d)
          out[(r * heads + h) * dim + d] += s[p] / sum * v[(p * kv_heads + kv) * dim + d];
      }
    }
  }
  return out;
}

}  // namespace

std::shared_ptr<const model::loaded_model> make_random_model(const reference_options& o,
                                                             std::mt19937& random) {
  auto owner = std::make_shared<storage>();
  owner->arrays.reserve(10000);
  auto m = std::make_shared<model::loaded_model>();
  model::model_config& c = m->config;
  c.architecture = "llama";
  c.vocab_size = o.vocab;
  c.hidden_size = o.hidden;
  c.intermediate_size = o.intermediate;
  c.num_hidden_layers = o.layers;
  c.num_attention_heads = o.heads;
  c.num_key_value_heads = o.kv_heads;
  c.head_dim = o.head_dim;
  c.max_position_embeddings = o.max_positions;
  c.tie_word_embeddings = o.tied;
  c.rope.dimensions = o.head_dim;
  c.rope.interleaved = o.interleaved;
  const auto weights = [&](std::uint64_t rows, std::uint64_t columns) {
    return random_tensor(*owner, rows, columns, 0, 1 / std::sqrt(static_cast<float>(columns)),
                         tensor_type::bf16, random);
  };
  const auto vector = [&](std::uint64_t size, float mean) {
    return random_tensor(*owner, 1, size, mean, 0.2f, tensor_type::f32, random);
  };
  m->weights.embed_tokens =
      random_tensor(*owner, o.vocab, o.hidden, 0, 1, tensor_type::bf16, random);
  m->weights.norm = vector(o.hidden, 1);
  m->weights.lm_head = o.tied ? m->weights.embed_tokens : weights(o.vocab, o.hidden);
  for (std::uint32_t i = 0; i < o.layers; ++i) {
    model::layer_weights l;
    l.attn_norm = vector(o.hidden, 1);
    l.ffn_norm = vector(o.hidden, 1);
    l.q_proj = weights(std::uint64_t{o.heads} * o.head_dim, o.hidden);
    l.k_proj = weights(std::uint64_t{o.kv_heads} * o.head_dim, o.hidden);
    l.v_proj = weights(std::uint64_t{o.kv_heads} * o.head_dim, o.hidden);
    l.o_proj = weights(o.hidden, std::uint64_t{o.heads} * o.head_dim);
    if (o.bias) {
      l.q_bias = vector(l.q_proj.rows, 0);
      l.k_bias = vector(l.k_proj.rows, 0);
      l.v_bias = vector(l.v_proj.rows, 0);
    }
    if (o.qk_norm) {
      l.q_norm = vector(o.head_dim, 1);
      l.k_norm = vector(o.head_dim, 1);
    }
    l.gate_proj = weights(o.intermediate, o.hidden);
    l.up_proj = weights(o.intermediate, o.hidden);
    l.down_proj = weights(o.hidden, o.intermediate);
    m->weights.layers.push_back(l);
  }
  m->mapping = owner;
  return m;
}

std::vector<double> reference_logits(const model::loaded_model& model,
                                     const std::vector<std::uint32_t>& tokens) {
  const auto& c = model.config;
  const double epsilon = c.rms_norm_eps;
  const matrix embedding = values_of(model.weights.embed_tokens);
  matrix x;
  for (const std::uint32_t t : tokens) {
    x.insert(x.end(), embedding.begin() + std::ptrdiff_t{t} * c.hidden_size,
             embedding.begin() + std::ptrdiff_t{t + 1} * c.hidden_size);
  }
  for (const auto& l : model.weights.layers) {
    const matrix h = normalize(x, l.attn_norm, epsilon);
    matrix q = multiply(h, l.q_proj), k = multiply(h, l.k_proj), v = multiply(h, l.v_proj);
    add_bias(q, l.q_bias);
    add_bias(k, l.k_bias);
    add_bias(v, l.v_bias);
    if (l.q_norm.exists()) {
      q = normalize(q, l.q_norm, epsilon);
      k = normalize(k, l.k_norm, epsilon);
    }
    rotate(q, c.num_attention_heads, c);
    rotate(k, c.num_key_value_heads, c);
    const matrix o = multiply(attend(q, k, v, c), l.o_proj);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += o[i];
    const matrix f = normalize(x, l.ffn_norm, epsilon);
    matrix gate = multiply(f, l.gate_proj);
    const matrix up = multiply(f, l.up_proj);
    for (std::size_t i = 0; i < gate.size(); ++i)
      gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    const matrix d = multiply(gate, l.down_proj);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += d[i];
  }
  return multiply(normalize(x, model.weights.norm, epsilon), model.weights.lm_head);
}

}  // namespace troupe::gpu::cuda
