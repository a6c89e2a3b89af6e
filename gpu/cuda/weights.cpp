#include "gpu/cuda/weights.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "gpu/cuda/dequantize.hpp"
#include "gpu/cuda/synthesize.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::size_t alignment = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// Hands out an arena from front to back; without memory it only adds up the sizes.
class arena_cursor {
 public:
  explicit arena_cursor(std::byte* base) : base_(base) {}
  template <class T>
  T* take(std::size_t count) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += aligned(count * sizeof(T));
    return reinterpret_cast<T*>(at);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

struct layout_options {
  bool bias, qk_norm;
};

result<void> take_matrix(arena_cursor& arena, weight_matrix& to, std::size_t rows, std::size_t columns) {
  auto* data = arena.take<__nv_bfloat16>(rows * columns);
  to.data = data;
  to.rows = static_cast<std::uint32_t>(rows);
  to.columns = static_cast<std::uint32_t>(columns);
  if (data == nullptr) return {};
  TROUPE_TRY(to, make_weight_matrix(data, to.rows, to.columns));
  return {};
}

// Places every tensor; one function, so that the sizes and the places cannot differ.
result<void> place(arena_cursor& arena, const model::model_config& c, const layout_options& options,
                   device_weights& w) {
  const std::size_t q = std::size_t{c.num_attention_heads} * c.head_dim, kv = std::size_t{c.num_key_value_heads} * c.head_dim;
  TROUPE_CHECK(take_matrix(arena, w.embed, c.vocab_size, c.hidden_size));
  if (c.tie_word_embeddings) {
    w.lm_head = w.embed;
  } else {
    TROUPE_CHECK(take_matrix(arena, w.lm_head, c.vocab_size, c.hidden_size));
  }
  w.norm = arena.take<float>(c.hidden_size);
  w.layers.resize(c.num_hidden_layers);
  for (auto& layer : w.layers) {
    layer.attn_norm = arena.take<float>(c.hidden_size);
    layer.ffn_norm = arena.take<float>(c.hidden_size);
    if (options.bias) layer.qkv_bias = arena.take<float>(q + 2 * kv);
    if (options.qk_norm) {
      layer.q_norm = arena.take<float>(c.head_dim);
      layer.k_norm = arena.take<float>(c.head_dim);
    }
    TROUPE_CHECK(take_matrix(arena, layer.qkv, q + 2 * kv, c.hidden_size));
    TROUPE_CHECK(take_matrix(arena, layer.o, c.hidden_size, q));
    TROUPE_CHECK(take_matrix(arena, layer.gate_up, std::size_t{2} * c.intermediate_size, c.hidden_size));
    TROUPE_CHECK(take_matrix(arena, layer.down, c.hidden_size, c.intermediate_size));
  }
  return {};
}

result<device_weights> allocate(const model::model_config& config, const layout_options& options) {
  device_weights w;
  TROUPE_TRY(w.arena, device_buffer<std::byte>::make(weight_arena_bytes(config, options.bias, options.qk_norm), "weights"));
  arena_cursor arena(w.arena.data());
  TROUPE_CHECK(place(arena, config, options, w));
  TROUPE_ASSERT(arena.used() == w.arena.bytes());
  return w;
}

// Copies tensors through two pinned buffers, so that reading the file, the bus and the dequantizer run side by side.
class uploader {
 public:
  static result<uploader> make(cudaStream_t stream) {
    uploader u;
    u.stream_ = stream;
    for (auto& s : u.slots_) {
      TROUPE_TRY(s.pinned, pinned_buffer<std::byte>::make(slot_bytes, "uploading weights"));
      TROUPE_TRY(s.raw, device_buffer<std::byte>::make(slot_bytes, "uploading weights"));
      TROUPE_CHECK(checked(cudaEventCreateWithFlags(&s.done, cudaEventDisableTiming), "creating an event"));
    }
    return u;
  }
  uploader(uploader&& other) noexcept : stream_(other.stream_), next_(other.next_) {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      slots_[i].pinned = std::move(other.slots_[i].pinned);
      slots_[i].raw = std::move(other.slots_[i].raw);
      slots_[i].done = std::exchange(other.slots_[i].done, nullptr);
    }
  }
  uploader& operator=(uploader&&) = delete;
  ~uploader() {
    for (auto& s : slots_) {
      if (s.done != nullptr) cudaEventDestroy(s.done);
    }
  }

  // Rows of `t` into the fused matrix `to`.
  result<void> matrix(const model::tensor& t, const __nv_bfloat16* to, row_placement placement) {
    const std::uint64_t step = std::max<std::uint64_t>(slot_bytes / t.row_bytes() / 16 * 16, 1);
    TROUPE_ASSERT(step * t.row_bytes() <= slot_bytes);
    for (std::uint64_t row = 0; row < t.rows; row += step) {
      const std::uint64_t rows = std::min(step, t.rows - row);
      row_placement part = placement;
      part.first += static_cast<std::uint32_t>(placement.interleaved ? row * 2 : row);
      TROUPE_TRY(const std::byte* raw, stage(t.data.subspan(row * t.row_bytes(), rows * t.row_bytes())));
      TROUPE_CHECK(dequantize_to_bf16(t.type, raw, rows, t.columns, const_cast<__nv_bfloat16*>(to), part, stream_));
      TROUPE_CHECK(release());
    }
    return {};
  }
  // A vector, as f32 whatever its type.
  result<void> vector(const model::tensor& t, const float* to, std::size_t offset = 0) {
    std::vector<float> values(t.columns);
    model::dequantize_row(t, 0, values);
    return checked(cudaMemcpy(const_cast<float*>(to) + offset, values.data(), values.size() * sizeof(float),
                              cudaMemcpyHostToDevice),
                   "uploading a norm");
  }

 private:
  static constexpr std::size_t slot_bytes = 32u << 20;
  struct slot {
    pinned_buffer<std::byte> pinned;
    device_buffer<std::byte> raw;
    cudaEvent_t done = nullptr;
  };
  uploader() = default;

  result<const std::byte*> stage(std::span<const std::byte> bytes) {
    slot& s = slots_[next_];
    TROUPE_CHECK(checked(cudaEventSynchronize(s.done), "uploading weights"));
    std::memcpy(s.pinned.data(), bytes.data(), bytes.size());
    TROUPE_CHECK(checked(cudaMemcpyAsync(s.raw.data(), s.pinned.data(), bytes.size(), cudaMemcpyHostToDevice, stream_),
                         "uploading weights"));
    return s.raw.data();
  }
  result<void> release() {
    TROUPE_CHECK(checked(cudaEventRecord(slots_[next_].done, stream_), "uploading weights"));
    next_ = (next_ + 1) % slots_.size();
    return {};
  }

  cudaStream_t stream_ = nullptr;
  std::array<slot, 2> slots_;
  std::size_t next_ = 0;
};

result<void> upload_layer(uploader& up, const model::layer_weights& from, const device_layer& to) {
  TROUPE_CHECK(up.vector(from.attn_norm, to.attn_norm));
  TROUPE_CHECK(up.vector(from.ffn_norm, to.ffn_norm));
  std::uint32_t row = 0;
  for (const model::tensor* t : {&from.q_proj, &from.k_proj, &from.v_proj}) {
    TROUPE_CHECK(up.matrix(*t, to.qkv.data, {row, false}));
    row += static_cast<std::uint32_t>(t->rows);
  }
  if (to.qkv_bias != nullptr) {
    std::size_t at = 0;
    for (const auto& [bias, weight] : {std::pair{&from.q_bias, &from.q_proj}, std::pair{&from.k_bias, &from.k_proj},
                                       std::pair{&from.v_bias, &from.v_proj}}) {
      if (bias->exists()) TROUPE_CHECK(up.vector(*bias, to.qkv_bias, at));
      at += weight->rows;
    }
  }
  if (to.q_norm != nullptr) {
    TROUPE_CHECK(up.vector(from.q_norm, to.q_norm));
    TROUPE_CHECK(up.vector(from.k_norm, to.k_norm));
  }
  TROUPE_CHECK(up.matrix(from.o_proj, to.o.data, {}));
  TROUPE_CHECK(up.matrix(from.gate_proj, to.gate_up.data, {0, true}));
  TROUPE_CHECK(up.matrix(from.up_proj, to.gate_up.data, {8, true}));
  return up.matrix(from.down_proj, to.down.data, {});
}

}  // namespace

std::size_t weight_arena_bytes(const model::model_config& config, bool has_bias, bool has_qk_norm) {
  arena_cursor sizes(nullptr);
  device_weights nowhere;
  const auto placed = place(sizes, config, {has_bias, has_qk_norm}, nowhere);
  TROUPE_ASSERT(placed.has_value());
  return sizes.used();
}

result<device_weights> upload_weights(const model::loaded_model& model, const std::function<void(double)>& progress,
                                      cudaStream_t stream) {
  const auto& from = model.weights;
  const bool bias = std::any_of(from.layers.begin(), from.layers.end(), [](const auto& l) {
    return l.q_bias.exists() || l.k_bias.exists() || l.v_bias.exists();
  });
  const bool qk_norm = std::any_of(from.layers.begin(), from.layers.end(), [](const auto& l) { return l.q_norm.exists(); });
  model::model_config config = model.config;
  config.tie_word_embeddings = from.lm_head.data.data() == from.embed_tokens.data.data();
  TROUPE_TRY(device_weights w, allocate(config, {bias, qk_norm}));
  TROUPE_TRY(uploader up, uploader::make(stream));
  TROUPE_CHECK(up.matrix(from.embed_tokens, w.embed.data, {}));
  if (!config.tie_word_embeddings) TROUPE_CHECK(up.matrix(from.lm_head, w.lm_head.data, {}));
  TROUPE_CHECK(up.vector(from.norm, w.norm));
  for (std::size_t i = 0; i < w.layers.size(); ++i) {
    TROUPE_CHECK(upload_layer(up, from.layers[i], w.layers[i]));
    if (progress) progress(static_cast<double>(i + 1) / static_cast<double>(w.layers.size()));
  }
  TROUPE_CHECK(checked(cudaStreamSynchronize(stream), "uploading weights"));
  return w;
}

result<device_weights> synthesize_weights(const model::model_config& config, std::uint64_t seed, cudaStream_t stream) {
  TROUPE_TRY(device_weights w, allocate(config, {false, false}));
  const auto fill = [&](const weight_matrix& m, float gain) {
    return fill_random(const_cast<__nv_bfloat16*>(m.data), std::size_t{m.rows} * m.columns, seed++ << 40,
                       gain / std::sqrt(static_cast<float>(m.columns)), stream);
  };
  const auto ones = [&](const float* v, std::size_t count) { return fill_constant(const_cast<float*>(v), count, 1.0f, stream); };
  TROUPE_CHECK(fill(w.embed, std::sqrt(static_cast<float>(config.hidden_size))));
  if (w.lm_head.data != w.embed.data) TROUPE_CHECK(fill(w.lm_head, 1.0f));
  TROUPE_CHECK(ones(w.norm, config.hidden_size));
  for (const auto& layer : w.layers) {
    TROUPE_CHECK(ones(layer.attn_norm, config.hidden_size));
    TROUPE_CHECK(ones(layer.ffn_norm, config.hidden_size));
    TROUPE_CHECK(fill(layer.qkv, 1.0f));
    TROUPE_CHECK(fill(layer.o, 1.0f));
    TROUPE_CHECK(fill(layer.gate_up, 1.0f));
    TROUPE_CHECK(fill(layer.down, 1.0f));
  }
  TROUPE_CHECK(checked(cudaStreamSynchronize(stream), "making synthetic weights"));
  return w;
}

}  // namespace troupe::gpu::cuda
