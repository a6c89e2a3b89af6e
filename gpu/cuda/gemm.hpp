// Linear layers y = x W^T in bf16 with f32 accumulation, on Hopper's copy engine and tensor cores.
//
// `multiply_narrow` has the weights on the tensor cores' 64-row side, so that few rows of activations waste
// nothing and the kernel streams weights at the memory's speed. `multiply_wide` has the activations there: prefill, and
// decode of many rows.
// An output value of multiply_narrow depends on its row of activations, the weights and `splits` only, never on the
// other rows or on the width chosen for them: `exact` runs it for every number of rows.
//
// Stateless; the thread that owns the stream.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "base/result.hpp"
#include "gpu/cuda/bf16_tiles.hpp"
#include "gpu/cuda/packed.hpp"

namespace troupe::gpu::cuda {

// Weights [rows][columns], in tiles of bf16 or packed. Packed ones are multiplied as they are by multiply_narrow
// and, in E4M3, by multiply_fp8; over many rows they are unpacked first, to `data`, which many matrices share.
struct weight_matrix {
  const __nv_bfloat16* data = nullptr;  // bf16_tiles.hpp
  std::uint32_t rows = 0, columns = 0;
  packed_matrix packed{};
  bool is_packed() const { return packed.data != nullptr; }
};

// Activations [capacity][columns] in bf16; capacity is a multiple of 128, so that whole tiles may be stored.
struct activation_matrix {
  __nv_bfloat16* data = nullptr;
  std::uint32_t capacity = 0, columns = 0;
  std::array<CUtensorMap, 7> maps{};  // boxes of 1, 2, 4 ... 64 rows
  // For kernels of tiles of `width` rows: of a tile of 8, only as many are fetched as there may be. Each row's sums are its
  // own, so what the others hold does not matter; and many blocks that ask for the same few lines wait for each other.
  static constexpr std::uint32_t box_rows(std::uint32_t rows, std::uint32_t width) {
    return width > 8 ? std::min(width, 64u) : std::bit_ceil(std::min(rows, 8u));
  }
  const CUtensorMap& box(std::uint32_t height) const { return maps[std::bit_width(height) - 1]; }
};
result<activation_matrix> make_activation_matrix(__nv_bfloat16* data, std::uint32_t capacity,
                                                 std::uint32_t columns);

struct narrow_output {
  // One of the two. `partial`: [splits][rows][features], the reader adds the splits in order. `gated`: W's rows are
  // gate and up in alternating groups of 8 and [rows][features / 2] silu(gate) * up is stored; splits must be 1.
  float* partial = nullptr;
  __nv_bfloat16* gated = nullptr;
};
struct narrow_options {
  std::uint32_t splits = 1;       // parts of the reduced dimension
  std::uint32_t tile_groups = 2;  // 64 or 128 features a block
  bool early = true;              // launch.hpp
  bool unpacked = false;          // packed weights have been unpacked to their `data`
};
result<void> multiply_narrow(const activation_matrix& x, std::uint32_t rows, const weight_matrix& w,
                             const narrow_output& y, const narrow_options& options,
                             cudaStream_t stream);

// One of the two. `values`: [rows][features], or with `gated` [rows][features / 2], as of narrow_output. `partial`: as
// there, of an even number of features.
struct wide_output {
  const activation_matrix* values = nullptr;
  bool gated = false;
  float* partial = nullptr;
};
// How multiply_wide cuts a product: tiles of 128 rows by `width` features, and their reduced dimension into `splits`.
struct wide_shape {
  std::uint32_t width = 256, splits = 1;
};
// For sums that go to a `partial`, of rows so few that tiles do not fill the multiprocessors by themselves.
wide_shape shape_of_partial(std::uint32_t rows, std::uint32_t features, std::uint32_t columns,
                            std::uint32_t multiprocessors);
inline constexpr std::uint32_t most_wide_splits = 4;
struct wide_options {
  wide_shape shape;   // of a partial: 256, 192 or 128 features; values have the best for their size
  bool early = true;  // launch.hpp
  bool ahead = false;  // the weights may be fetched before the kernel before has ended
};
result<void> multiply_wide(const activation_matrix& x, std::uint32_t rows, const weight_matrix& w,
                           const wide_output& y, const wide_options& options, cudaStream_t stream);

// Activations in E4M3 with a scale a row, for multiply_fp8. Of 16 columns the order is that of f8 tiles.
struct quantized_rows {
  std::uint8_t* data = nullptr;  // [capacity][columns]
  float* scales = nullptr;       // [capacity]
  std::uint32_t columns = 0;
  CUtensorMap map{};  // boxes of 64 rows by 128 columns
};
result<quantized_rows> make_quantized_rows(std::uint8_t* data, float* scales,
                                           std::uint32_t capacity, std::uint32_t columns);
inline constexpr std::uint32_t most_quantized_columns = 32768;
result<void> quantize_rows(const activation_matrix& x, std::uint32_t rows, const quantized_rows& to,
                           cudaStream_t stream);
// Whether multiply_fp8 takes these weights: f8 as a whole.
bool is_fp8(const weight_matrix& w);
struct fp8_output {
  const activation_matrix& values;
  bool gated = false;        // as of narrow_output
  float* partial = nullptr;  // instead of the values, as of narrow_output
  std::uint32_t splits = 1;  // of the partial
};
// The rounding of activations to E4M3 makes its error some 2 % of the result.
result<void> multiply_fp8(const quantized_rows& x, std::uint32_t rows, const weight_matrix& w,
                          const fp8_output& y, cudaStream_t stream);

// --- One row over K-quants: its activations are integers of 16 bits there (integer_units.cuh) ---

// Whether these weights are K-quants, in whole groups of 256 columns, and not too many.
bool can_multiply_single(const weight_matrix& w);

// RMSNorm as a part of the products around it. Who adds to the residual (multiply_into_residual) stores it times the norm's weight, and
// sums of its squares; who multiplies that divides by the root of their mean at its end.
struct row_norm {
  const float* squares = nullptr;  // [parts]; nullptr: the activations are as they are
  std::uint32_t parts = 0;
  float epsilon = 0;
};
struct single_options {
  std::uint32_t splits = 1;  // as of narrow_options
  row_norm norm{};
};
// A row of integers takes so many bytes for each 256 values.
inline constexpr std::uint32_t integer_group_bytes = 640;
// One of the two. `partial`: as of narrow_output. `gated`: as there, but a row of integers, of whole groups.
struct single_output {
  float* partial = nullptr;
  std::uint8_t* gated = nullptr;
  // If there: of `partial`, without splits, what rows.hpp's find_argmax finds.
  unsigned long long* argmax = nullptr;
};
// y = W x. REQUIRES: can_multiply_single. x: a row of integers.
result<void> multiply_single(const std::uint8_t* x, const weight_matrix& w, const single_output& y,
                             const single_options& options, cudaStream_t stream);

// residual += W x, without splits, of a multiple of 256 features.
struct residual_update {
  float* residual = nullptr;       // [features]
  const float* weight = nullptr;   // [features], the next norm's
  std::uint8_t* normed = nullptr;  // a row of integers: the residual times the weight
  float* squares = nullptr;        // [features / residual_band]: sums of the residual's squares
};
inline constexpr std::uint32_t residual_band = 16;
bool can_multiply_into_residual(const weight_matrix& w, std::uint32_t multiprocessors);
// One of the two: bf16, or a row of integers.
struct single_input {
  const __nv_bfloat16* values = nullptr;
  const std::uint8_t* integers = nullptr;
};
result<void> multiply_into_residual(const single_input& x, const weight_matrix& w,
                                    const residual_update& y, std::uint32_t multiprocessors,
                                    cudaStream_t stream);
// As packed_tuning, of steps of one row. residual_shared_bytes, ring_shared_bytes: of a block, if a ring of two slots a warp, or of two
// stages, fits in them. stages_ahead, stages_later: of the latter, on their way at a time until the row is there, and then;
// units_ahead: of the former, until its rings are full.
struct single_tuning {
  std::uint32_t residual_shared_bytes = 155 * 1024, ring_shared_bytes = 56 * 1024;
  std::uint32_t stages_ahead = 1, stages_later = 3, units_ahead = 12;
  bool used = true;
};
single_tuning& tuning_of_single();

// How packed weights are multiplied; no bit of a product depends on the ring. The values here are the product's; figures
// change them, before anything runs.
struct packed_tuning {
  std::uint32_t ring_bytes = 54 * 1024;       // of tiles on their way, over at most 16 rows
  std::uint32_t blocks = 4, most_splits = 8;  // blocks a multiprocessor that splits aim at
  std::uint32_t most_rows = 2048;  // more are multiplied with a matrix that is unpacked first
};
packed_tuning& tuning_of_packed();
// Parts of the reduced dimension with which multiply_narrow takes more than 16 rows over packed weights soonest.
std::uint32_t packed_splits(const weight_matrix& w, std::uint32_t rows,
                            std::uint32_t multiprocessors);

// Once a device, before the first product.
result<void> prepare_gemm();

}  // namespace troupe::gpu::cuda
