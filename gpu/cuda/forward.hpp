// The layers of one forward pass as kernels on a stream, and the buffers they share. Knows nothing of sequences: step_plan
// has worked out rows, slots and the attention's work list.
//
// Owned by the runner, its thread. Allocates at make only.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/buffer.hpp"
#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/rows.hpp"
#include "gpu/cuda/step_plan.hpp"
#include "gpu/cuda/weights.hpp"
#include "gpu/kv_layout.hpp"
#include "model/config.hpp"

namespace troupe::gpu::cuda {

struct forward_limits {
  std::uint32_t rows = 0, sequences = 0, logits = 0;
  std::uint32_t multiprocessors = 0;
  bool exact = false;
};

// What the launches depend on; equal shapes may replay one graph.
struct forward_shape {
  std::uint32_t rows = 0, logits = 0;
  bool gather = false;  // logits rows are not simply all rows
  bool single = false;  // every row is one token of its sequence, and no tile is wide
  std::span<const attention_round> rounds;

  std::uint32_t items() const {
    std::uint32_t count = 0;
    for (const attention_round& r : rounds) count += r.items;
    return count;
  }
};

class forward_pass {
 public:
  static result<forward_pass> make(const model::model_config& config, device_weights weights,
                                   const forward_limits& limits, const kv_layout& layout,
                                   cudaStream_t stream);

  result<void> attach(std::byte* arena, std::uint32_t num_blocks);
  // Copies the plan to the device, padded to the shape's rows and items. The pass before must be over.
  result<void> upload(const step_plan& plan, const forward_shape& shape, cudaStream_t stream);
  // All of a pass whose logits fit in one piece; or its layers, then its logits in pieces that the caller fetches.
  result<void> enqueue(const forward_shape& shape, cudaStream_t stream) const;
  result<layer_output> enqueue_layers(const forward_shape& shape, cudaStream_t stream) const;
  // Logits of rows gather[first, + count) into logits()[0, count) and argmax()[first, + count), which is pinned memory.
  result<void> enqueue_logits(const forward_shape& shape, const layer_output& last,
                              std::uint32_t first, std::uint32_t count, cudaStream_t stream) const;

  float* logits() const { return logits_.data(); }
  const unsigned long long* argmax() const { return argmax_host_.data(); }
  std::size_t bytes() const { return bytes_; }
  const plan_options& planning() const { return planning_; }
  // Batches of at most this many rows may be graphs.
  static constexpr std::uint32_t small_rows = 256;
  // Beyond this many, rows go over FP8 weights in FP8 themselves.
  static constexpr std::uint32_t fp8_rows = 32;

 private:
  forward_pass() = default;
  // A step's plan in memory, one piece of it. Equal shapes have equal places, as a graph needs.
  struct step_pointers {
    std::uint32_t *num_items, *tokens, *positions, *slots, *gather;
    attention_item* items;
    std::uint32_t* block_tables;
    std::size_t bytes;  // before the tables
  };
  static constexpr std::uint32_t most_fp8_splits = 4;
  static constexpr std::uint32_t max_rounds = 64, max_items = 65536;
  static step_pointers place(std::byte* base, std::uint32_t rows, std::uint32_t items);
  step_pointers on_device(const forward_shape& shape) const {
    return place(step_.data(), shape.rows, shape.items());
  }

  result<void> allocate_activations();
  result<void> make_angles(cudaStream_t stream);
  std::uint32_t splits(const weight_matrix& w) const;
  std::uint32_t splits(const weight_matrix& w, std::uint32_t rows) const;
  // The widest matrices, gate and up and the LM head, fill the card with large tiles of fewer rows than the others.
  static constexpr std::uint32_t wide_feature_rows = 64, wide_rows = 128;
  // Blocks of 64 features spread better; of 128 they read many rows' activations less often.
  static std::uint32_t tile_groups(std::uint32_t rows) { return rows <= 128 ? 1 : 2; }
  bool unpacks(const weight_matrix& w, std::uint32_t rows) const;
  // Whether multiply_narrow takes that many rows over these weights; unpacked: that is what it would have.
  bool narrow(const weight_matrix& w, std::uint32_t rows, bool unpacked) const {
    return limits_.exact || rows <= small_rows || (w.is_packed() && !unpacked);
  }
  // Whether rows beyond so many go over these weights by multiply_wide, however few they are.
  bool takes_wide(const weight_matrix& w, std::uint32_t rows, std::uint32_t beyond) const;
  // Whether that many rows go over these weights in E4M3.
  bool takes_fp8(const weight_matrix& w, std::uint32_t rows) const;
  std::uint32_t fp8_splits(const weight_matrix& w, std::uint32_t rows) const;
  // As linear. REQUIRES: takes_fp8.
  result<layer_output> linear_fp8(const activation_matrix& x, const weight_matrix& w,
                                  const activation_matrix& y, bool gated, std::uint32_t rows,
                                  cudaStream_t stream) const;
  // Whether so many rows go through the layers with RMSNorm as a part of the products.
  bool fuses_norms(std::uint32_t rows) const {
    return fuses_norms_ && rows == 1 && tuning_of_single().used;
  }
  result<bool> unpack_for(const weight_matrix& w, std::uint32_t rows, cudaStream_t stream) const;
  // y = x w^T; returns where the result is.
  result<layer_output> linear(const activation_matrix& x, const weight_matrix& w,
                              const activation_matrix& y, std::uint32_t rows,
                              cudaStream_t stream) const;
  result<void> attention(const forward_shape& shape, std::uint32_t layer,
                         const rotary_arguments& rotary, cudaStream_t stream) const;
  rotary_arguments rotary_of(std::uint32_t index, const forward_shape& shape,
                             const layer_output& qkv) const;
  result<layer_output> layer(const forward_shape& shape, std::uint32_t index,
                             const layer_output& before, cudaStream_t stream) const;
  // REQUIRES: fuses_norms. normed_ is what the layer before left, a row of integers, and so it leaves it for the next one; before
  // the first it is add_and_normalize's.
  result<void> fused_layer(const forward_shape& shape, std::uint32_t index,
                           cudaStream_t stream) const;
  // Of normed_ behind multiply_into_residual.
  row_norm norm_after_residual() const;

  model::model_config config_;
  device_weights weights_;
  forward_limits limits_;
  kv_layout layout_;
  plan_options planning_;
  std::size_t bytes_ = 0;
  bool fuses_norms_ = false;

  device_buffer<float> residual_, partial_, logits_, attention_partial_, squares_;
  device_buffer<float2> softmax_partial_, angles_;
  device_buffer<__nv_bfloat16> normed_values_, qkv_values_, attended_values_, out_values_,
      gated_values_;
  device_buffer<__half> queries_;
  device_buffer<std::uint8_t> quantized_values_;  // [rows][the widest of activations]
  device_buffer<float> quantized_scales_;
  device_buffer<unsigned long long> argmax_;
  pinned_buffer<unsigned long long> argmax_host_;
  device_buffer<std::uint32_t> counters_;
  activation_matrix normed_, qkv_, attended_, out_, gated_;

  device_buffer<std::byte> step_;
  pinned_buffer<std::byte> step_host_;
  std::byte* arena_ = nullptr;
  CUtensorMap arena_map_{};
};

}  // namespace troupe::gpu::cuda
