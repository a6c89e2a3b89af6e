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

std::size_t aligned(std::size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

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

// How each matrix is stored: the parts it is fused from, with their types; no parts: bf16.
struct matrix_part {
  std::uint64_t rows = 0;
  packed_format format = packed_format::none;
};
using matrix_parts = std::vector<matrix_part>;
struct layer_layout {
  matrix_parts qkv, o, gate_up, down;
};
struct model_layout {
  bool bias = false, qk_norm = false;
  matrix_parts embed, lm_head;
  std::vector<layer_layout> layers;  // empty: bf16
};

bool is_plain(model::tensor_type t) {
  return t == model::tensor_type::bf16 || t == model::tensor_type::f16 ||
         t == model::tensor_type::f32;
}
// How a tensor is kept: as it is, or, under fp8, E4M3 made of what is not quantized. So is E4M3 with scales of blocks, which
// else becomes bf16.
packed_format format_of(const model::tensor& t, bool fp8) {
  if (t.type == model::tensor_type::f8_e4m3)
    return fp8 || !t.scales.by_blocks() ? packed_format::f8 : packed_format::none;
  return fp8 && is_plain(t.type) ? packed_format::f8 : packed_format_of(t.type);
}

// Whole tiles of one format each, or else nothing is packed.
matrix_parts parts_of(std::initializer_list<const model::tensor*> tensors, bool fp8 = false) {
  matrix_parts parts;
  for (const model::tensor* t : tensors) {
    const packed_format format = format_of(*t, fp8);
    if (format == packed_format::none || t->columns % (64 * packed_group(format)) != 0 ||
        (tensors.size() > 1 && t->rows % 64 != 0))
      return {};
    parts.push_back({t->rows, format});
  }
  const auto f8 = std::count_if(parts.begin(), parts.end(),
                                [](const matrix_part& p) { return p.format == packed_format::f8; });
  return f8 == 0 || f8 == std::ssize(parts) ? parts : matrix_parts{};
}
matrix_parts interleaved_parts(const model::tensor& gate, const model::tensor& up, bool fp8) {
  if (format_of(gate, fp8) != format_of(up, fp8) || gate.rows % 32 != 0) return {};
  matrix_parts parts = parts_of({&gate}, fp8);
  for (auto& p : parts) p.rows *= 2;
  return parts;
}
// Under fp8 the embedding and the LM head stay as they are: their errors would meet no later layer that evens them out. Of a
// file that has them in E4M3 they become bf16.
model_layout layout_of(const model::loaded_model& model, bool fp8) {
  const auto& w = model.weights;
  model_layout layout;
  const auto whole = [](const model::tensor& t) {
    return t.type == model::tensor_type::f8_e4m3 ? matrix_parts{} : parts_of({&t});
  };
  layout.embed = whole(w.embed_tokens);
  layout.lm_head = whole(w.lm_head);
  for (const auto& l : w.layers) {
    layout.bias = layout.bias || l.q_bias.exists() || l.k_bias.exists() || l.v_bias.exists();
    layout.qk_norm = layout.qk_norm || l.q_norm.exists();
    layout.layers.push_back(
        {parts_of({&l.q_proj, &l.k_proj, &l.v_proj}, fp8), parts_of({&l.o_proj}, fp8),
         interleaved_parts(l.gate_proj, l.up_proj, fp8), parts_of({&l.down_proj}, fp8)});
  }
  return layout;
}

// Places every tensor; one class, so that the sizes and the places cannot differ. Without memory it only adds them up.
class placer {
 public:
  placer(std::byte* arena, __nv_bfloat16* scratch) : arena_(arena), scratch_(scratch) {}

  void model(const model::model_config& c, const model_layout& layout, device_weights& w) {
    const std::size_t q = std::size_t{c.num_attention_heads} * c.head_dim,
                      kv = std::size_t{c.num_key_value_heads} * c.head_dim;
    const std::size_t hidden = c.hidden_size, inner = c.intermediate_size;
    matrix(w.embed, c.vocab_size, hidden, layout.embed, false);
    if (c.tie_word_embeddings) {
      w.lm_head = w.embed;
    } else {
      matrix(w.lm_head, c.vocab_size, hidden, layout.lm_head, false);
    }
    w.norm = arena_.take<float>(hidden);
    w.layers.resize(c.num_hidden_layers);
    for (std::size_t i = 0; i < w.layers.size(); ++i) {
      device_layer& layer = w.layers[i];
      const layer_layout parts = layout.layers.empty() ? layer_layout{} : layout.layers[i];
      layer.attn_norm = arena_.take<float>(hidden);
      layer.ffn_norm = arena_.take<float>(hidden);
      if (layout.bias) layer.qkv_bias = arena_.take<float>(q + 2 * kv);
      if (layout.qk_norm) {
        layer.q_norm = arena_.take<float>(c.head_dim);
        layer.k_norm = arena_.take<float>(c.head_dim);
      }
      matrix(layer.qkv, q + 2 * kv, hidden, parts.qkv, true);
      matrix(layer.o, hidden, q, parts.o, true);
      matrix(layer.gate_up, 2 * inner, hidden, parts.gate_up, true);
      matrix(layer.down, hidden, inner, parts.down, true);
    }
  }
  std::size_t arena_bytes() const { return arena_.used(); }
  std::size_t scratch_values() const { return scratch_values_; }

 private:
  void matrix(weight_matrix& to, std::size_t rows, std::size_t columns, const matrix_parts& parts,
              bool unpackable) {
    to.rows = static_cast<std::uint32_t>(rows);
    to.columns = static_cast<std::uint32_t>(columns);
    const std::size_t values = count_bf16_values(to.rows, to.columns);
    if (parts.empty()) {
      to.data = arena_.take<__nv_bfloat16>(values);
    } else {
      std::uint64_t tile = 0, offset = 0;
      for (std::uint32_t i = 0; i < packed_matrix::max_runs; ++i) {
        to.packed.first_tile[i] = static_cast<std::uint32_t>(tile);
        to.packed.offset[i] = offset;
        if (i >= parts.size()) {
          to.packed.first_tile[i] = ~std::uint32_t{0};
          continue;
        }
        const std::uint64_t tiles = (parts[i].rows + 63) / 64;
        to.packed.format[i] = parts[i].format;
        tile += tiles;
        offset += tiles * (columns / 64) * packed_tile_bytes(parts[i].format);
      }
      to.packed.data = arena_.take<std::byte>(offset);
      if (std::any_of(parts.begin(), parts.end(),
                      [](const matrix_part& p) { return p.format == packed_format::f8; })) {
        to.packed.row_scales = arena_.take<float>(tile * 64);
      }
      if (unpackable) scratch_values_ = std::max(scratch_values_, values);
      to.data = unpackable ? scratch_ : nullptr;
    }
  }

  arena_cursor arena_;
  __nv_bfloat16* scratch_;
  std::size_t scratch_values_ = 0;
};

result<device_weights> allocate(const model::model_config& config, const model_layout& layout) {
  placer sizes(nullptr, nullptr);
  device_weights nowhere, w;
  sizes.model(config, layout, nowhere);
  TROUPE_TRY(w.arena, device_buffer<std::byte>::make(sizes.arena_bytes(), "weights"));
  if (sizes.scratch_values() > 0) {
    TROUPE_TRY(w.scratch,
               device_buffer<__nv_bfloat16>::make(sizes.scratch_values(), "unpacking weights"));
  }
  placer places(w.arena.data(), w.scratch.data());
  places.model(config, layout, w);
  TROUPE_ASSERT(places.arena_bytes() == w.arena.bytes());
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
      TROUPE_CHECK(
          checked(cudaEventCreateWithFlags(&s.done, cudaEventDisableTiming), "creating an event"));
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

  // Rows of `t` into the fused matrix `to`, whose part `run` they are.
  result<void> matrix(const model::tensor& t, const weight_matrix& to, row_placement placement,
                      std::uint32_t run = 0) {
    if (t.type == model::tensor_type::f8_e4m3) return f8_matrix(t, to, placement, run);
    const std::uint64_t step = std::max<std::uint64_t>(slot_bytes / t.row_bytes() / 16 * 16, 1);
    TROUPE_ASSERT(step * t.row_bytes() <= slot_bytes);
    for (std::uint64_t row = 0; row < t.rows; row += step) {
      const std::uint64_t rows = std::min(step, t.rows - row);
      const row_placement part = from_row(placement, row, to.is_packed());
      TROUPE_TRY(const std::byte* raw,
                 stage(t.data.subspan(row * t.row_bytes(), rows * t.row_bytes())));
      if (to.is_packed()) {
        TROUPE_CHECK(to.packed.format[run] == packed_format::f8
                         ? quantize_to_f8(t.type, raw, rows, t.columns, tiles_of(to, run),
                                          scales_of(to, run), part, stream_)
                         : pack(t.type, raw, rows, t.columns, tiles_of(to, run), part, stream_));
      } else {
        TROUPE_CHECK(dequantize_to_bf16(t.type, raw, rows, t.columns,
                                        const_cast<__nv_bfloat16*>(to.data), part, stream_));
      }
      TROUPE_CHECK(release());
    }
    return {};
  }
  // A vector, as f32 whatever its type.
  result<void> vector(const model::tensor& t, const float* to, std::size_t offset = 0) {
    std::vector<float> values(t.columns);
    model::dequantize_row(t, 0, values);
    return checked(cudaMemcpy(const_cast<float*>(to) + offset, values.data(),
                              values.size() * sizeof(float), cudaMemcpyHostToDevice),
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

  // Of a packed matrix's part `run`.
  static std::byte* tiles_of(const weight_matrix& m, std::uint32_t run) {
    return const_cast<std::byte*>(m.packed.data) + m.packed.offset[run];
  }
  static float* scales_of(const weight_matrix& m, std::uint32_t run) {
    return const_cast<float*>(m.packed.row_scales) + m.packed.first_tile[run] * 64;
  }
  // Where the rows from `row` on go. In a packed matrix each tensor is a run of its own, which begins at 0.
  static row_placement from_row(row_placement placement, std::uint64_t row, bool is_packed) {
    if (placement.interleaved)
      placement.first += static_cast<std::uint32_t>(row * 2);
    else
      placement.first = static_cast<std::uint32_t>(is_packed ? row : placement.first + row);
    return placement;
  }

  // As it is where it is packed, else by way of bf16, which is made here.
  result<void> f8_matrix(const model::tensor& t, const weight_matrix& to, row_placement placement,
                         std::uint32_t run) {
    std::vector<std::byte> bytes;
    std::vector<float> values(t.columns);
    const std::uint64_t step =
        std::max<std::uint64_t>(slot_bytes / (2 * t.columns + sizeof(float)) / 16 * 16, 1);
    for (std::uint64_t row = 0; row < t.rows; row += step) {
      const std::uint64_t rows = std::min(step, t.rows - row);
      const row_placement part = from_row(placement, row, to.is_packed());
      if (to.is_packed() && !t.scales.by_blocks()) {
        const auto from = t.data.subspan(row * t.columns, rows * t.columns);
        bytes.assign(from.begin(), from.end());
        for (std::uint64_t r = row; r < row + rows; ++r) {
          const float scale = model::row_scale(t, r);
          const auto* raw = reinterpret_cast<const std::byte*>(&scale);
          bytes.insert(bytes.end(), raw, raw + sizeof scale);
        }
        TROUPE_TRY(const std::byte* raw, stage(bytes));
        TROUPE_CHECK(
            place_f8(raw, rows, t.columns, tiles_of(to, run), scales_of(to, run), part, stream_));
      } else {
        bytes.resize(rows * t.columns * sizeof(__nv_bfloat16));
        auto* half = reinterpret_cast<__nv_bfloat16*>(bytes.data());
        for (std::uint64_t r = row; r < row + rows; ++r) {
          model::dequantize_row(t, r, values);
          for (const float v : values) *half++ = __float2bfloat16(v);
        }
        TROUPE_TRY(const std::byte* raw, stage(bytes));
        TROUPE_CHECK(to.is_packed()
                         ? quantize_to_f8(model::tensor_type::bf16, raw, rows, t.columns,
                                          tiles_of(to, run), scales_of(to, run), part, stream_)
                         : dequantize_to_bf16(model::tensor_type::bf16, raw, rows, t.columns,
                                              const_cast<__nv_bfloat16*>(to.data), part, stream_));
      }
      TROUPE_CHECK(release());
    }
    return {};
  }

  result<const std::byte*> stage(std::span<const std::byte> bytes) {
    slot& s = slots_[next_];
    TROUPE_CHECK(finish(s.done, "uploading weights"));
    std::memcpy(s.pinned.data(), bytes.data(), bytes.size());
    TROUPE_CHECK(checked(cudaMemcpyAsync(s.raw.data(), s.pinned.data(), bytes.size(),
                                         cudaMemcpyHostToDevice, stream_),
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
  std::uint32_t row = 0, run = 0;
  for (const model::tensor* t : {&from.q_proj, &from.k_proj, &from.v_proj}) {
    TROUPE_CHECK(up.matrix(*t, to.qkv, {row, false}, run++));
    row += static_cast<std::uint32_t>(t->rows);
  }
  if (to.qkv_bias != nullptr) {
    std::size_t at = 0;
    for (const auto& [bias, weight] :
         {std::pair{&from.q_bias, &from.q_proj}, std::pair{&from.k_bias, &from.k_proj},
          std::pair{&from.v_bias, &from.v_proj}}) {
      if (bias->exists()) TROUPE_CHECK(up.vector(*bias, to.qkv_bias, at));
      at += weight->rows;
    }
  }
  if (to.q_norm != nullptr) {
    TROUPE_CHECK(up.vector(from.q_norm, to.q_norm));
    TROUPE_CHECK(up.vector(from.k_norm, to.k_norm));
  }
  TROUPE_CHECK(up.matrix(from.o_proj, to.o, {}));
  TROUPE_CHECK(up.matrix(from.gate_proj, to.gate_up, {0, true}));
  TROUPE_CHECK(up.matrix(from.up_proj, to.gate_up, {8, true}));
  return up.matrix(from.down_proj, to.down, {});
}

}  // namespace

result<device_weights> upload_weights(const model::loaded_model& model, bool fp8,
                                      const std::function<void(double)>& progress,
                                      cudaStream_t stream) {
  const auto& from = model.weights;
  model::model_config config = model.config;
  config.tie_word_embeddings = from.lm_head.data.data() == from.embed_tokens.data.data();
  TROUPE_TRY(device_weights w, allocate(config, layout_of(model, fp8)));
  TROUPE_TRY(uploader up, uploader::make(stream));
  TROUPE_CHECK(up.matrix(from.embed_tokens, w.embed, {}));
  if (!config.tie_word_embeddings) TROUPE_CHECK(up.matrix(from.lm_head, w.lm_head, {}));
  TROUPE_CHECK(up.vector(from.norm, w.norm));
  for (std::size_t i = 0; i < w.layers.size(); ++i) {
    TROUPE_CHECK(upload_layer(up, from.layers[i], w.layers[i]));
    if (progress) progress(static_cast<double>(i + 1) / static_cast<double>(w.layers.size()));
  }
  TROUPE_CHECK(finish(stream, "uploading weights"));
  return w;
}

result<device_weights> synthesize_weights(const model::model_config& config, synthetic_weights kind,
                                          std::uint64_t seed, cudaStream_t stream) {
  model_layout layout;
  if (kind == synthetic_weights::fp8) {
    const auto f8 = [](std::uint64_t rows) { return matrix_parts{{rows, packed_format::f8}}; };
    const std::uint64_t q = std::uint64_t{config.num_attention_heads} * config.head_dim;
    const std::uint64_t qkv = q + std::uint64_t{2} * config.num_key_value_heads * config.head_dim;
    layout.layers.assign(config.num_hidden_layers,
                         {f8(qkv), f8(config.hidden_size),
                          f8(std::uint64_t{2} * config.intermediate_size), f8(config.hidden_size)});
  }
  if (kind == synthetic_weights::q4) {
    const auto q4 = [](std::uint64_t rows) { return matrix_parts{{rows, packed_format::q4_k}}; };
    const std::uint64_t q = std::uint64_t{config.num_attention_heads} * config.head_dim;
    const std::uint64_t qkv = q + std::uint64_t{2} * config.num_key_value_heads * config.head_dim;
    layout.embed = q4(config.vocab_size);
    layout.lm_head = {{config.vocab_size, packed_format::q6_k}};
    layout.layers.assign(config.num_hidden_layers,
                         {q4(qkv), q4(config.hidden_size),
                          q4(std::uint64_t{2} * config.intermediate_size), q4(config.hidden_size)});
  }
  TROUPE_TRY(device_weights w, allocate(config, layout));
  const auto fill = [&](const weight_matrix& m, float gain) -> result<void> {
    const float deviation = gain / std::sqrt(static_cast<float>(m.columns));
    const std::uint64_t tensor_seed = seed++ << 40;
    if (!m.is_packed()) {
      return fill_random(const_cast<__nv_bfloat16*>(m.data), count_bf16_values(m.rows, m.columns),
                         tensor_seed, deviation, stream);
    }
    const packed_format format = m.packed.format[0];
    if (format == packed_format::f8) {
      TROUPE_CHECK(fill_random(w.scratch.data(), std::size_t{m.rows} * m.columns, tensor_seed,
                               deviation, stream));
      return quantize_to_f8(model::tensor_type::bf16,
                            reinterpret_cast<const std::byte*>(w.scratch.data()), m.rows, m.columns,
                            const_cast<std::byte*>(m.packed.data),
                            const_cast<float*>(m.packed.row_scales), {}, stream);
    }
    const std::size_t tiles = std::size_t{(m.rows + 63) / 64} * (m.columns / 64);
    return fill_random_packed(const_cast<std::byte*>(m.packed.data), tiles, format, tensor_seed,
                              deviation / (format == packed_format::q4_k ? 4.6f : 18.5f), stream);
  };
  const auto ones = [&](const float* v, std::size_t count) {
    return fill_constant(const_cast<float*>(v), count, 1.0f, stream);
  };
  TROUPE_CHECK(fill(w.embed, std::sqrt(static_cast<float>(config.hidden_size))));
  if (!config.tie_word_embeddings) {
    TROUPE_CHECK(fill(w.lm_head, 1.0f));
  }
  TROUPE_CHECK(ones(w.norm, config.hidden_size));
  for (const auto& layer : w.layers) {
    TROUPE_CHECK(ones(layer.attn_norm, config.hidden_size));
    TROUPE_CHECK(ones(layer.ffn_norm, config.hidden_size));
    TROUPE_CHECK(fill(layer.qkv, 1.0f));
    TROUPE_CHECK(fill(layer.o, 1.0f));
    TROUPE_CHECK(fill(layer.gate_up, 1.0f));
    TROUPE_CHECK(fill(layer.down, 1.0f));
  }
  TROUPE_CHECK(finish(stream, "making synthetic weights"));
  return w;
}

}  // namespace troupe::gpu::cuda
