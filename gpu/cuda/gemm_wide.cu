#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda {

result<void> prepare_narrow();

namespace {

// A block computes tiles of 128 rows by 256 features: two warpgroups of 64 rows each, and a warp that feeds them.
constexpr int groups = 2, width = 256, stages = 4;
constexpr std::uint32_t depth_step = 64, panel_bytes = 64 * 128;
constexpr std::uint32_t row_bytes = groups * panel_bytes, stage_bytes = row_bytes + width * 128;
constexpr std::uint32_t staging_bytes = groups * 2 * panel_bytes;
constexpr std::size_t shared_bytes = stages * stage_bytes + staging_bytes + 256;
constexpr std::uint32_t raster_height = 16;  // row tiles that run side by side, so that L2 serves both operands

struct wide_parameters {
  std::uint32_t row_tiles, feature_tiles, depth_steps;
};
struct tile_position {
  std::uint32_t row_tile, feature_tile;
};
__device__ inline tile_position locate(std::uint32_t index, const wide_parameters& p) {
  const std::uint32_t run = raster_height * p.feature_tiles;
  const std::uint32_t first = index / run * raster_height;
  const std::uint32_t height = min(raster_height, p.row_tiles - first);
  const std::uint32_t rest = index % run;
  return {first + rest % height, rest / height};
}

__device__ inline std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&both);
}
__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }

// Column group `kColumn` (8 values) of this thread's two rows, packed.
template <bool kGated, int kColumn>
__device__ inline void column_group(const float (&sum)[width / 2], std::uint32_t& upper, std::uint32_t& lower) {
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
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(m[0]),
               "r"(m[1]), "r"(m[2]), "r"(m[3])
               : "memory");
}

// Two panels of 64 columns, from column group kFirst on, into staging under the swizzle of the output's map.
template <bool kGated, int kFirst, int kPair = 0>
__device__ inline void stage_panels(const float (&sum)[width / 2], std::uint8_t* staging, int warp, int lane) {
  if constexpr (kPair < 8) {
    std::uint32_t m[4];
    column_group<kGated, kFirst + 2 * kPair>(sum, m[0], m[1]);
    column_group<kGated, kFirst + 2 * kPair + 1>(sum, m[2], m[3]);
    const int row = warp * 16 + lane / 8 % 2 * 8 + lane % 8;
    const int column = 2 * kPair + lane / 16;  // of 16 groups in the two panels
    const std::uint32_t offset = column / 8 * panel_bytes + row * 128 + ((column % 8) ^ (row % 8)) * 16;
    store_matrices(shared_address(staging) + offset, m);
    stage_panels<kGated, kFirst, kPair + 1>(sum, staging, warp, lane);
  }
}

template <bool kGated, int kRound>
__device__ inline void store_round(const float (&sum)[width / 2], const CUtensorMap* map, std::uint8_t* staging,
                                   int group, int x, int y) {
  const bool leader = threadIdx.x % 128 == 0;
  if (leader) store_wait_read();
  sync_threads(1 + group, 128);
  stage_panels<kGated, kRound * 16>(sum, staging, static_cast<int>(threadIdx.x) / 32 % 4,
                                    static_cast<int>(threadIdx.x) % 32);
  fence_async_proxy();
  sync_threads(1 + group, 128);
  if (leader) {
    store_tile_2d(map, staging, x + kRound * 128, y);
    store_tile_2d(map, staging + panel_bytes, x + kRound * 128 + 64, y);
    store_commit();
  }
}

template <bool kGated>
__global__ void __launch_bounds__(groups * 128 + 32, 1)
    wide_kernel(const __grid_constant__ CUtensorMap rows, const __grid_constant__ CUtensorMap weights,
                const __grid_constant__ CUtensorMap output, const wide_parameters p) {
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t* tiles = shared;
  auto* full = reinterpret_cast<std::uint64_t*>(tiles + stages * stage_bytes + staging_bytes);
  auto* empty = full + stages;
  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, groups);
    }
    barrier_init_fence();
  }
  __syncthreads();
  let_next_kernel_start();
  wait_for_previous_kernel();

  const std::uint32_t num_tiles = p.row_tiles * p.feature_tiles;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  ring_position<stages> at;
  if (warp == groups * 4) {
    if (threadIdx.x % 32 != 0) return;
    for (std::uint32_t t = blockIdx.x; t < num_tiles; t += gridDim.x) {
      const tile_position tile = locate(t, p);
      for (std::uint32_t s = 0; s < p.depth_steps; ++s, at.advance()) {
        barrier_wait(empty + at.stage, at.phase ^ 1);
        barrier_expect(full + at.stage, stage_bytes);
        std::uint8_t* to = tiles + at.stage * stage_bytes;
        const int x = static_cast<int>(s * depth_step);
        for (int g = 0; g < groups; ++g) {
          copy_tile_2d(to + g * panel_bytes, &rows, full + at.stage, x, static_cast<int>(tile.row_tile * 128 + g * 64));
        }
        for (int f = 0; f < width; f += 64) {
          copy_tile_2d(to + row_bytes + f * 128, &weights, full + at.stage, x,
                       static_cast<int>(tile.feature_tile * width + f));
        }
      }
    }
    return;
  }

  const int group = warp / 4;
  std::uint8_t* staging = tiles + stages * stage_bytes + group * 2 * panel_bytes;
  float sum[width / 2];
  for (std::uint32_t t = blockIdx.x; t < num_tiles; t += gridDim.x) {
    const tile_position tile = locate(t, p);
    std::uint32_t previous = 0;
    for (std::uint32_t s = 0; s < p.depth_steps; ++s, at.advance()) {
      barrier_wait(full + at.stage, at.phase);
      const std::uint64_t a = k_major_tile(tiles + at.stage * stage_bytes + group * panel_bytes);
      const std::uint64_t b = k_major_tile(tiles + at.stage * stage_bytes + row_bytes);
      hold(sum);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) multiply_bf16(sum, a + 2 * k, b + 2 * k, s > 0 || k > 0);
      wgmma_commit();
      wgmma_wait<1>();
      if (s > 0 && threadIdx.x % 128 == 0) barrier_arrive(empty + previous);
      previous = at.stage;
    }
    wgmma_wait<0>();
    hold(sum);
    if (threadIdx.x % 128 == 0) barrier_arrive(empty + previous);
    const int y = static_cast<int>(tile.row_tile * 128 + group * 64);
    if constexpr (kGated) {
      store_round<true, 0>(sum, &output, staging, group, static_cast<int>(tile.feature_tile * (width / 2)), y);
    } else {
      store_round<false, 0>(sum, &output, staging, group, static_cast<int>(tile.feature_tile * width), y);
      store_round<false, 1>(sum, &output, staging, group, static_cast<int>(tile.feature_tile * width), y);
    }
  }
  if (threadIdx.x % 128 == 0) store_wait();
}

}  // namespace

result<void> prepare_gemm() {
  TROUPE_CHECK(allow_shared_memory(wide_kernel<false>, shared_bytes, "preparing multiply_wide"));
  TROUPE_CHECK(allow_shared_memory(wide_kernel<true>, shared_bytes, "preparing multiply_wide"));
  return prepare_narrow();
}

result<void> multiply_wide(const activation_matrix& x, std::uint32_t rows, const weight_matrix& w,
                           const activation_matrix& y, bool gated, bool early, cudaStream_t stream) {
  TROUPE_ASSERT(x.columns == w.columns && rows > 0 && rows <= x.capacity && rows <= y.capacity);
  TROUPE_ASSERT(y.columns == (gated ? w.rows / 2 : w.rows));
  int device = 0, multiprocessors = 0;
  TROUPE_CHECK(checked(cudaGetDevice(&device), "asking for the device"));
  TROUPE_CHECK(checked(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
                     "asking for the multiprocessors"));
  wide_parameters p{};
  p.row_tiles = (rows + 127) / 128;
  p.feature_tiles = (w.rows + width - 1) / width;
  p.depth_steps = (w.columns + depth_step - 1) / depth_step;
  const launch_shape shape{dim3(std::min(p.row_tiles * p.feature_tiles, static_cast<std::uint32_t>(multiprocessors))),
                           dim3(groups * 128 + 32), shared_bytes};
  return gated ? launch("multiply_wide", wide_kernel<true>, shape, stream, early, x.maps[3], w.map, y.maps[3], p)
               : launch("multiply_wide", wide_kernel<false>, shape, stream, early, x.maps[3], w.map, y.maps[3], p);
}

}  // namespace troupe::gpu::cuda
