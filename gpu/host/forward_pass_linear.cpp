#include <algorithm>
#include <cmath>

#include "gpu/host/forward_pass.hpp"
#include "gpu/host/forward_pass_limits.hpp"
#include "gpu/host/rope_angles.hpp"

namespace troupe::gpu::host {

void forward_pass::tile(const packed_matrix& m, const activations& in, std::uint32_t tile,
                        std::uint32_t first_row, std::uint32_t num_rows, float* out,
                        std::size_t stride, bool accumulate) const {
  kernels_.matmul[static_cast<std::size_t>(m.format)](
      {&m, tile, &in, first_row, num_rows, out, stride, accumulate});
}

void forward_pass::embed(std::uint32_t, std::uint32_t task, std::uint32_t, std::uint32_t) {
  const std::uint32_t dimensions = config_.rope.dimensions;
  const std::uint32_t first = task * prepare_rows, last = std::min(first + prepare_rows, rows());
  for (std::uint32_t row = first; row < last; ++row) {
    const row_info& r = pass_->rows[row];
    weights_.embed(r.token,
                   {hidden_ + std::size_t{row} * config_.hidden_size, config_.hidden_size});
    rope_lanes(config_.rope, frequencies_, r.position,
               {cosine_ + std::size_t{row} * dimensions, dimensions},
               {sine_ + std::size_t{row} * dimensions, dimensions});
  }
}

// A task is one head: query heads first, then K, then V.
void forward_pass::qkv(std::uint32_t layer, std::uint32_t task, std::uint32_t worker,
                       std::uint32_t serial) {
  const activations& in = input(source::attn_norm, layer, worker, serial);
  const host_layer& w = weights_.layers[layer];
  const std::uint32_t chunks = quotient(rows(), row_chunk_max);
  const std::uint32_t head = task / chunks, row = task % chunks * row_chunk_max;
  const std::uint32_t n = std::min(row_chunk_max, rows() - row), head_dim = config_.head_dim;
  const std::uint32_t q_heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads;

  const bool query = head < q_heads;
  const packed_matrix& m = query ? w.q : head < q_heads + kv_heads ? w.k : w.v;
  const std::uint32_t index = query ? head : (head - q_heads) % kv_heads;
  const std::size_t stride = query ? std::size_t{q_heads} * head_dim : head_dim;
  float* out =
      query ? queries_ + row * stride + std::size_t{head} * head_dim : workers_[worker].tile_a;
  const std::uint32_t tiles = head_dim / tile_outputs;
  for (std::uint32_t t = 0; t < tiles; ++t)
    tile(m, in, index * tiles + t, row, n, out + t * tile_outputs, stride, false);
  for (std::uint32_t r = 0; r < n; ++r) finish_head(layer, head, row + r, out + r * stride);
}

void forward_pass::finish_head(std::uint32_t layer, std::uint32_t head, std::uint32_t row,
                               float* values) {
  const host_layer& w = weights_.layers[layer];
  const std::uint32_t q_heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads;
  const std::uint32_t head_dim = config_.head_dim, dimensions = config_.rope.dimensions;
  const bool query = head < q_heads, value = head >= q_heads + kv_heads;
  const std::uint32_t index = query ? head : (head - q_heads) % kv_heads;

  const std::vector<float>& bias = query ? w.q_bias : value ? w.v_bias : w.k_bias;
  if (!bias.empty()) kernels_.add(values, bias.data() + std::size_t{index} * head_dim, head_dim);
  if (!value) {
    const std::vector<float>& norm = query ? w.q_norm : w.k_norm;
    if (!norm.empty())
      kernels_.rms_norm(values, norm.data(), config_.rms_norm_eps, head_dim, values);
    const std::size_t at = std::size_t{row} * dimensions;
    kernels_.rope({values, cosine_ + at, sine_ + at, dimensions, config_.rope.interleaved});
  }
  if (query) {
    kernels_.scale(values, 1.0f / std::sqrt(static_cast<float>(head_dim)), head_dim);
  } else {
    const row_info& r = pass_->rows[row];
    kernels_.store_f16(values, kv(layer, value, index, pass_->sequences[r.sequence], r.position),
                       head_dim);
  }
}

void forward_pass::add_to_residual(const packed_matrix& m, const activations& in,
                                   std::uint32_t task) {
  const part p = part_of(task, m.tiles, in.rows);
  const std::size_t stride = config_.hidden_size;
  for (std::uint32_t t = p.first_tile; t < p.last_tile; ++t) {
    tile(m, in, t, p.first_row, p.num_rows, hidden_ + p.first_row * stride + t * tile_outputs,
         stride, true);
  }
}

void forward_pass::output(std::uint32_t layer, std::uint32_t task, std::uint32_t worker,
                          std::uint32_t serial) {
  add_to_residual(weights_.layers[layer].o, input(source::attention, layer, worker, serial), task);
}

void forward_pass::gate_up(std::uint32_t layer, std::uint32_t task, std::uint32_t worker,
                           std::uint32_t serial) {
  const activations& in = input(source::ffn_norm, layer, worker, serial);
  const host_layer& w = weights_.layers[layer];
  const part p = part_of(task, w.gate.tiles, in.rows);
  const std::size_t stride = config_.intermediate_size;
  float *gate = workers_[worker].tile_a, *up = workers_[worker].tile_b;
  for (std::uint32_t t = p.first_tile; t < p.last_tile; ++t) {
    tile(w.gate, in, t, p.first_row, p.num_rows, gate, tile_outputs, false);
    tile(w.up, in, t, p.first_row, p.num_rows, up, tile_outputs, false);
    kernels_.silu_multiply(gate, up, p.num_rows, inner_ + p.first_row * stride + t * tile_outputs,
                           stride);
  }
}

void forward_pass::down(std::uint32_t layer, std::uint32_t task, std::uint32_t worker,
                        std::uint32_t serial) {
  add_to_residual(weights_.layers[layer].down, input(source::inner, layer, worker, serial), task);
}

void forward_pass::lm_head(std::uint32_t layer, std::uint32_t task, std::uint32_t worker,
                           std::uint32_t serial) {
  const activations& in = input(source::logits, layer, worker, serial);
  const packed_matrix& m = weights_.lm_head;
  const std::uint32_t n = tiles_per_task(m.tiles), first = task * n,
                      last = std::min(first + n, m.tiles);
  const std::size_t stride = config_.vocab_size;
  for (std::uint32_t t = first; t < last; ++t) {
    const std::uint32_t outputs = std::min(tile_outputs, m.outputs - t * tile_outputs);
    if (outputs == tile_outputs) {
      tile(m, in, t, 0, in.rows, pass_->logits + t * tile_outputs, stride, false);
      continue;
    }
    float* whole = workers_[worker].tile_a;  // the vocabulary ends inside this tile
    for (std::uint32_t row = 0; row < in.rows; row += rows_per_block) {
      const std::uint32_t rows_here = std::min(rows_per_block, in.rows - row);
      tile(m, in, t, row, rows_here, whole, tile_outputs, false);
      for (std::uint32_t r = 0; r < rows_here; ++r) {
        std::copy_n(whole + r * tile_outputs, outputs,
                    pass_->logits + (row + r) * stride + t * tile_outputs);
      }
    }
  }
}

}  // namespace troupe::gpu::host
