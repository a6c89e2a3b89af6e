// What the kernels with the weights on the tensor cores' row side share: which tile a block computes, and its epilogue.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "gpu/cuda/gemm.hpp"

namespace troupe::gpu::cuda {

inline constexpr std::uint32_t depth_step = 64;  // values of the reduced dimension a stage
inline constexpr std::uint32_t raster_width =
    8;  // column tiles that share a tile of weights while it is in L2

struct narrow_parameters {
  std::uint32_t features, depth_steps, rows, splits, row_tiles;
  float* partial;
  __nv_bfloat16* gated;
  std::uint32_t box_rows;  // of the activations that one copy brings
  const float* scales;     // [features] that the sums are multiplied with, or nullptr
};

__device__ inline float silu(float x) {
  return __fdividef(x, 1.0f + __expf(-x));
}

// Which tile a block computes: row tiles of activations vary fastest within runs of raster_width.
struct tile_position {
  std::uint32_t feature_tile, split, row_tile;
};
__device__ inline tile_position locate(std::uint32_t index, const narrow_parameters& p,
                                       std::uint32_t feature_tiles) {
  const std::uint32_t run = raster_width * feature_tiles * p.splits;
  const std::uint32_t first = index / run * raster_width;
  const std::uint32_t width = min(raster_width, p.row_tiles - first);
  const std::uint32_t rest = index % run;
  const std::uint32_t upper = rest / width;
  return {upper / p.splits, upper % p.splits, first + rest % width};
}

// Where a split's part of the reduced dimension begins: with a whole group of packed tiles (packed.hpp), whatever the
// weights are, so that their format changes no bit.
__host__ __device__ inline bool splits_groups(const narrow_parameters& p) {
  return p.depth_steps % 4 == 0 && p.depth_steps / 4 >= p.splits;
}
__device__ inline std::uint32_t first_step_of(const narrow_parameters& p, std::uint32_t split) {
  const std::uint32_t unit = splits_groups(p) ? 4 : 1;
  return p.depth_steps / unit * split / p.splits * unit;
}

// The 64 features from `feature0` on of kWidth rows. gain: what the sums are multiplied with that have no scales.
template <int kWidth>
__device__ inline void store_tile(const narrow_parameters& p, std::uint32_t split,
                                  std::uint32_t feature0, std::uint32_t row0,
                                  const float (&sum)[kWidth / 2], float gain = 1.0f) {
  const std::uint32_t lane = threadIdx.x % 32, slab = feature0 + threadIdx.x / 32 % 4 * 16;
  const auto scale_of = [&](std::uint32_t feature) {
    return p.scales != nullptr && feature < p.features ? p.scales[feature] : gain;
  };
  const float upper = scale_of(slab + lane / 4), lower = scale_of(slab + lane / 4 + 8);
  if (p.gated != nullptr) {
    const std::uint32_t out_features = p.features / 2, out = slab / 2 + lane / 4;
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const std::uint32_t row = row0 + 8 * j + lane % 4 * 2 + c;
        if (row < p.rows && out < out_features) {
          p.gated[std::size_t{row} * out_features + out] =
              __float2bfloat16(silu(sum[4 * j + c] * upper) * (sum[4 * j + 2 + c] * lower));
        }
      }
    }
    return;
  }
  float* y = p.partial + std::size_t{split} * p.rows * p.features;
#pragma unroll
  for (int j = 0; j < kWidth / 8; ++j) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const std::uint32_t row = row0 + 8 * j + lane % 4 * 2 + c % 2,
                          f = slab + lane / 4 + c / 2 * 8;
      if (row < p.rows && f < p.features)
        y[std::size_t{row} * p.features + f] = sum[4 * j + c] * (c < 2 ? upper : lower);
    }
  }
}

}  // namespace troupe::gpu::cuda
