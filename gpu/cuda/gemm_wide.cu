#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_wide.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {

result<void> prepare_narrow();
result<void> prepare_fp8();

namespace {

using namespace wide;

constexpr std::uint32_t depth_step = 64;
template <int kWidth>
struct wide_tile {
  static constexpr int stages = kWidth == 256 ? 4 : 6;
  static constexpr std::uint32_t stage_bytes = row_bytes + kWidth * 128;
  static constexpr std::size_t shared_bytes = stages * stage_bytes + staging_bytes + 256;
};

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
  return launch("multiply_wide", wide_kernel<kGated, kWidth>, shape, stream, early, x.box(64),
                w.map, y.box(64), p);
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
  TROUPE_CHECK(prepare_fp8());
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
