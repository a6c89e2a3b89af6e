// What the kernels of products with many rows share: which tile a block computes, and how tiles are stored.
//
// A block computes tiles of 128 rows by 128 to 256 features, or some of their depth: two warpgroups of 64 rows each, and a warp
// that feeds them. Two of them may be a pair, kBlocks = 2: a cluster whose blocks have 128 rows each and the same weights, of which
// each copies half for both, so that half as many come from L2.
// Device code only, sm_90a.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>

#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda::wide {

inline constexpr int groups = 2;
inline constexpr std::uint32_t panel_bytes = 64 * 128, row_bytes = groups * panel_bytes;
inline constexpr std::uint32_t staging_bytes = groups * 2 * panel_bytes;
inline constexpr std::uint32_t raster_height =
    16;  // row tiles that run side by side, so that L2 serves both operands

template <int kBlocks>
inline constexpr std::uint16_t all_of = (1u << kBlocks) - 1;  // bits of a cluster's blocks

struct wide_parameters {
  std::uint32_t row_tiles, feature_tiles, depth_steps;
  std::uint32_t splits;  // parts of the depth
};
struct tile_position {
  std::uint32_t row_tile, feature_tile;
};
// most: row tiles that run side by side.
__device__ inline tile_position locate(std::uint32_t index, const wide_parameters& p,
                                       std::uint32_t most) {
  const std::uint32_t run = most * p.feature_tiles;
  const std::uint32_t first = index / run * most;
  const std::uint32_t height = min(most, p.row_tiles - first);
  const std::uint32_t rest = index % run;
  return {first + rest % height, rest / height};
}
// What a block works on in its turn: some of the depth of one tile, in stages.
struct wide_work {
  tile_position tile;
  std::uint32_t split, begin, end;
};
__host__ __device__ inline std::uint32_t count_work(const wide_parameters& p) {
  return p.row_tiles * p.feature_tiles * p.splits;
}
// Which block of its pair this one is.
template <int kBlocks>
__device__ inline std::uint32_t rank_of_block() {
  return kBlocks == 1 ? 0 : blockIdx.x % kBlocks;
}
// index: of the pair's work, whose row tiles p counts by pairs.
template <int kBlocks>
__device__ inline wide_work find_work(std::uint32_t index, const wide_parameters& p) {
  const std::uint32_t split = index % p.splits;
  tile_position tile = locate(index / p.splits, p, raster_height / kBlocks);
  tile.row_tile = tile.row_tile * kBlocks + rank_of_block<kBlocks>();
  return {tile, split, p.depth_steps * split / p.splits, p.depth_steps * (split + 1) / p.splits};
}
// Of what a block copies for its pair.
template <int kBlocks>
__device__ inline void copy_shared(void* to, const void* from, std::uint32_t bytes,
                                   std::uint64_t* bar, std::uint64_t policy) {
  if constexpr (kBlocks == 1)
    copy_bulk(to, from, bytes, bar, policy);
  else
    copy_bulk_to(all_of<kBlocks>, to, from, bytes, bar, policy);
}
// By a warpgroup, behind its last product from a stage: to every block that fills it. empty: counts groups * kBlocks.
template <int kBlocks>
__device__ inline void free_stage(std::uint64_t* empty) {
  if constexpr (kBlocks == 1) {
    if (threadIdx.x % 128 == 0) barrier_arrive(empty);
  } else {
    if (threadIdx.x % 128 < kBlocks) barrier_arrive_at(empty, threadIdx.x % 128);
  }
}
// A block's first steps. full: of a stage, which its feeder and copies fill; behind it the next kernel's blocks may come.
template <int kStages, int kBlocks>
__device__ inline void begin_ring(std::uint64_t* full, std::uint64_t* empty) {
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, groups * kBlocks);
    }
    barrier_init_fence();
  }
  if constexpr (kBlocks == 1)
    __syncthreads();
  else
    sync_cluster();
  let_next_kernel_start();
}

__device__ inline std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&both);
}
__device__ inline float silu(float x) {
  return __fdividef(x, 1.0f + __expf(-x));
}

// Column group `kColumn` (8 values) of this thread's two rows, packed.
template <bool kGated, int kColumn, int kCount>
__device__ inline void column_group(const float (&sum)[kCount], std::uint32_t& upper,
                                    std::uint32_t& lower) {
  if constexpr (kGated) {
    constexpr int g = 8 * kColumn, u = g + 4;
    upper = pack(silu(sum[g]) * sum[u], silu(sum[g + 1]) * sum[u + 1]);
    lower = pack(silu(sum[g + 2]) * sum[u + 2], silu(sum[g + 3]) * sum[u + 3]);
  } else {
    constexpr int c = 4 * kColumn;
    upper = pack(sum[c], sum[c + 1]);
    lower = pack(sum[c + 2], sum[c + 3]);
  }
}

__device__ inline void store_matrices(std::uint32_t address, const std::uint32_t (&m)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3])
      : "memory");
}

// Panels of 64 columns, from column group kFirst on, into staging under the swizzle of the output's map.
template <bool kGated, int kFirst, int kPanels, int kCount, int kPair = 0>
__device__ inline void stage_panels(const float (&sum)[kCount], std::uint8_t* staging, int warp,
                                    int lane) {
  if constexpr (kPair < 4 * kPanels) {
    std::uint32_t m[4];
    column_group<kGated, kFirst + 2 * kPair>(sum, m[0], m[1]);
    column_group<kGated, kFirst + 2 * kPair + 1>(sum, m[2], m[3]);
    const int row = warp * 16 + lane / 8 % 2 * 8 + lane % 8;
    const int column = 2 * kPair + lane / 16;
    const std::uint32_t offset =
        column / 8 * panel_bytes + row * 128 + ((column % 8) ^ (row % 8)) * 16;
    store_matrices(shared_address(staging) + offset, m);
    stage_panels<kGated, kFirst, kPanels, kCount, kPair + 1>(sum, staging, warp, lane);
  }
}

// Stores a warpgroup's rows, at most two panels at a time.
template <bool kGated, int kPanel = 0, int kCount>
__device__ inline void store_panels(const float (&sum)[kCount], const CUtensorMap* map,
                                    std::uint8_t* staging, int group, int x, int y) {
  constexpr int kAll = kCount * 2 / (kGated ? 2 : 1) / 64,
                kPanels = kAll - kPanel < 2 ? kAll - kPanel : 2;
  const bool leader = threadIdx.x % 128 == 0;
  if (leader) store_wait_read();
  sync_threads(1 + group, 128);
  stage_panels<kGated, kPanel * 8, kPanels>(sum, staging, static_cast<int>(threadIdx.x) / 32 % 4,
                                            static_cast<int>(threadIdx.x) % 32);
  fence_async_proxy();
  sync_threads(1 + group, 128);
  if (leader) {
    for (int i = 0; i < kPanels; ++i)
      store_tile_2d(map, staging + i * panel_bytes, x + (kPanel + i) * 64, y);
    store_commit();
  }
  if constexpr (kPanel + kPanels < kAll)
    store_panels<kGated, kPanel + kPanels>(sum, map, staging, group, x, y);
}

// A warpgroup's rows from `row` on, as they are: into [rows][features] of f32.
template <int kWidth>
__device__ inline void store_sums(const float (&sum)[kWidth / 2], float* to, std::uint32_t rows,
                                  std::uint32_t features, std::uint32_t row,
                                  std::uint32_t feature0) {
  const std::uint32_t lane = threadIdx.x % 32, first = row + threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const std::uint32_t r = first + 8 * h;
    if (r >= rows) continue;
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
      const std::uint32_t feature = feature0 + 8 * j + lane % 4 * 2;
      if (feature < features)
        *reinterpret_cast<float2*>(to + std::size_t{r} * features + feature) =
            make_float2(sum[4 * j + 2 * h], sum[4 * j + 2 * h + 1]);
    }
  }
}

// The same of gate and up, without the copy engine: tiles of any width, into [rows][features] of bf16.
template <int kColumn = 0, int kCount>
__device__ inline void store_gated(const float (&sum)[kCount], __nv_bfloat16* to,
                                   std::uint32_t rows, std::uint32_t features, std::uint32_t row,
                                   std::uint32_t feature) {
  if constexpr (kColumn < kCount / 8) {
    std::uint32_t upper, lower;
    column_group<true, kColumn>(sum, upper, lower);
    if (feature < features) {
      __nv_bfloat16* at = to + std::size_t{row} * features + feature;
      if (row < rows) *reinterpret_cast<std::uint32_t*>(at) = upper;
      if (row + 8 < rows) *reinterpret_cast<std::uint32_t*>(at + std::size_t{8} * features) = lower;
    }
    store_gated<kColumn + 1>(sum, to, rows, features, row, feature + 8);
  }
}

inline std::uint32_t turns_of(std::uint32_t rows, std::uint32_t features, std::uint32_t width,
                              std::uint32_t multiprocessors) {
  const std::uint32_t tiles = (rows + 127) / 128 * ((features + width - 1) / width);
  return (tiles + multiprocessors - 1) / multiprocessors;
}
// Pairs need an even number of row tiles, or so many that an idle block matters little.
inline bool pairs_pay(std::uint32_t rows) {
  const std::uint32_t tiles = (rows + 127) / 128;
  return tiles % 2 == 0 || tiles > 16;
}
// Half as wide a tile takes a bit more than half the time; it pays where it fills the last turn better.
inline bool half_width_pays(std::uint32_t rows, std::uint32_t features,
                            std::uint32_t multiprocessors) {
  return turns_of(rows, features, 128, multiprocessors) * 57 <
         turns_of(rows, features, 256, multiprocessors) * 100;
}

}  // namespace troupe::gpu::cuda::wide
