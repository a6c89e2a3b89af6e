#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda {

result<void> prepare_narrow();

namespace {

// A block computes tiles of 128 rows by 256 or 128 features: two warpgroups of 64 rows each, and a warp that feeds them.
constexpr int groups = 2;
constexpr std::uint32_t depth_step = 64, panel_bytes = 64 * 128, row_bytes = groups * panel_bytes;
constexpr std::uint32_t staging_bytes = groups * 2 * panel_bytes;
template <int kWidth>
struct wide_tile {
  static constexpr int stages = kWidth == 256 ? 4 : 6;
  static constexpr std::uint32_t stage_bytes = row_bytes + kWidth * 128;
  static constexpr std::size_t shared_bytes = stages * stage_bytes + staging_bytes + 256;
};
constexpr std::uint32_t raster_height =
    16;  // row tiles that run side by side, so that L2 serves both operands

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

template <bool kGated, int width>
__global__ void __launch_bounds__(groups * 128 + 32, 1)
    wide_kernel(const __grid_constant__ CUtensorMap rows,
                const __grid_constant__ CUtensorMap weights,
                const __grid_constant__ CUtensorMap output, const wide_parameters p) {
  constexpr int stages = wide_tile<width>::stages;
  constexpr std::uint32_t stage_bytes = wide_tile<width>::stage_bytes;
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
          copy_tile_2d(to + g * panel_bytes, &rows, full + at.stage, x,
                       static_cast<int>(tile.row_tile * 128 + g * 64));
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
    const int x = static_cast<int>(tile.feature_tile * (kGated ? width / 2 : width));
    store_panels<kGated>(sum, &output, staging, group, x, y);
  }
  if (threadIdx.x % 128 == 0) store_wait();
}

template <bool kGated, int kWidth>
result<void> run(const activation_matrix& x, std::uint32_t rows, const weight_matrix& w,
                 const activation_matrix& y, std::uint32_t multiprocessors, bool early,
                 cudaStream_t stream) {
  const wide_parameters p{(rows + 127) / 128, (w.rows + kWidth - 1) / kWidth,
                          (w.columns + depth_step - 1) / depth_step};
  const launch_shape shape{dim3(std::min(p.row_tiles * p.feature_tiles, multiprocessors)),
                           dim3(groups * 128 + 32), wide_tile<kWidth>::shared_bytes};
  return launch("multiply_wide", wide_kernel<kGated, kWidth>, shape, stream, early, x.maps[3],
                w.map, y.maps[3], p);
}

// Half as wide a tile takes a bit more than half the time; it pays where it fills the last turn better.
bool half_width_pays(std::uint32_t rows, std::uint32_t features, std::uint32_t multiprocessors) {
  const auto turns = [&](std::uint32_t width) {
    const std::uint32_t tiles = (rows + 127) / 128 * ((features + width - 1) / width);
    return (tiles + multiprocessors - 1) / multiprocessors;
  };
  return turns(128) * 57 < turns(256) * 100;
}

template <int kWidth>
result<void> prepare() {
  constexpr std::size_t bytes = wide_tile<kWidth>::shared_bytes;
  TROUPE_CHECK(allow_shared_memory(wide_kernel<false, kWidth>, bytes, "preparing multiply_wide"));
  return allow_shared_memory(wide_kernel<true, kWidth>, bytes, "preparing multiply_wide");
}

}  // namespace

result<void> prepare_gemm() {
  TROUPE_CHECK(prepare<256>());
  TROUPE_CHECK(prepare<128>());
  return prepare_narrow();
}

result<void> multiply_wide(const activation_matrix& x, std::uint32_t rows, const weight_matrix& w,
                           const activation_matrix& y, bool gated, bool early,
                           cudaStream_t stream) {
  TROUPE_ASSERT(x.columns == w.columns && rows > 0 && rows <= x.capacity && rows <= y.capacity);
  TROUPE_ASSERT(y.columns == (gated ? w.rows / 2 : w.rows));
  int device = 0, multiprocessors = 0;
  TROUPE_CHECK(checked(cudaGetDevice(&device), "asking for the device"));
  TROUPE_CHECK(
      checked(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
              "asking for the multiprocessors"));
  const auto count = static_cast<std::uint32_t>(multiprocessors);
  if (half_width_pays(rows, w.rows, count)) {
    return gated ? run<true, 128>(x, rows, w, y, count, early, stream)
                 : run<false, 128>(x, rows, w, y, count, early, stream);
  }
  return gated ? run<true, 256>(x, rows, w, y, count, early, stream)
               : run<false, 256>(x, rows, w, y, count, early, stream);
}

}  // namespace troupe::gpu::cuda
