// multiply_narrow over packed weights: tiles come to shared memory as they are stored, a warpgroup unpacks them to bf16 under
// the swizzle while the tensor cores multiply the tile before.
#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_narrow.cuh"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/packed.cuh"
#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint32_t slot_bytes = 5120;         // of a stage: a tile of either format, to the next 1024
constexpr std::uint32_t unpacked_bytes = 64 * 128;

__host__ __device__ constexpr int stages_for(int width) { return width <= 32 ? 6 : width == 256 ? 4 : 4; }
__host__ __device__ constexpr std::size_t shared_bytes_for(int width) {
  return static_cast<std::size_t>(stages_for(width)) * (slot_bytes + width * 128) + 2 * unpacked_bytes + 256;
}

__device__ inline void copy_bulk(void* to, const void* from, std::uint32_t bytes, std::uint64_t* bar, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(bar)), "l"(policy)
      : "memory");
}

template <int kWidth>
__global__ void __launch_bounds__(160)
    packed_kernel(const packed_matrix weights, const __grid_constant__ CUtensorMap activations, const narrow_parameters p) {
  constexpr int kStages = stages_for(kWidth), kBoxRows = kWidth < 64 ? kWidth : 64;
  constexpr std::uint32_t kStageBytes = slot_bytes + kWidth * 128;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t *unpacked = shared, *stages = shared + 2 * unpacked_bytes;
  auto* full = reinterpret_cast<std::uint64_t*>(stages + kStages * kStageBytes);
  auto* empty = full + kStages;
  const tile_position tile = locate(blockIdx.x, p, (p.features + 63) / 64);
  const std::uint32_t first_step = p.depth_steps * tile.split / p.splits;
  const std::uint32_t steps = p.depth_steps * (tile.split + 1) / p.splits - first_step;
  const std::uint32_t row0 = tile.row_tile * kWidth;
  const packed_row source = find_row(weights, tile.feature_tile, p.depth_steps);
  const std::uint32_t tile_bytes = source.format == packed_format::q4 ? 2560 : 4608;

  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, 1);
    }
    barrier_init_fence();
  }
  __syncthreads();
  let_next_kernel_start();

  if (threadIdx.x >= 128) {  // the producer
    if (threadIdx.x % 32 != 0) return;
    const std::uint64_t policy = evict_first_policy();
    const std::byte* from = weights.data + source.offset + std::size_t{first_step} * tile_bytes;
    const auto load_weights = [&](std::uint32_t step, std::uint32_t stage) {
      barrier_expect(full + stage, tile_bytes + kWidth * 128);
      copy_bulk(stages + stage * kStageBytes, from + std::size_t{step} * tile_bytes, tile_bytes, full + stage, policy);
    };
    const auto load_activations = [&](std::uint32_t step, std::uint32_t stage) {
      for (int r = 0; r < kWidth; r += kBoxRows) {
        copy_tile_2d(stages + stage * kStageBytes + slot_bytes + r * 128, &activations, full + stage,
                     static_cast<int>((first_step + step) * depth_step), static_cast<int>(row0) + r);
      }
    };
    const std::uint32_t ahead = min(steps, static_cast<std::uint32_t>(kStages));
    for (std::uint32_t s = 0; s < ahead; ++s) load_weights(s, s);
    wait_for_previous_kernel();
    for (std::uint32_t s = 0; s < ahead; ++s) load_activations(s, s);
    ring_position<kStages> at;
    for (std::uint32_t s = kStages; s < steps; ++s, at.advance()) {
      barrier_wait(empty + at.stage, at.phase);
      load_weights(s, at.stage);
      load_activations(s, at.stage);
    }
    return;
  }

  const std::uint32_t row = threadIdx.x / 2, chunk = threadIdx.x % 2 * 4;
  float sum[kWidth / 2];
  ring_position<kStages> at, done;
  for (std::uint32_t s = 0; s < steps; ++s, at.advance()) {
    barrier_wait(full + at.stage, at.phase);
    std::uint32_t values[16];
    unpack_slot(stages + at.stage * kStageBytes, source.format, threadIdx.x, values);
    // The product of two steps ago has read its tile and its activations.
    wgmma_wait<1>();
    if (s > 1) {
      if (threadIdx.x == 0) barrier_arrive(empty + done.stage);
      done.advance();
    }
    std::uint8_t* to = unpacked + s % 2 * unpacked_bytes;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      *reinterpret_cast<uint4*>(to + row * 128 + ((chunk + i) ^ (row % 8)) * 16) =
          make_uint4(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]);
    }
    fence_async_proxy();
    sync_threads(1, 128);
    const std::uint64_t a = k_major_tile(to), b = k_major_tile(stages + at.stage * kStageBytes + slot_bytes);
    hold(sum);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) multiply_bf16(sum, a + 2 * k, b + 2 * k, s > 0 || k > 0);
    wgmma_commit();
  }
  wgmma_wait<0>();
  hold(sum);
  store_tile<kWidth>(p, tile.split, tile.feature_tile * 64, row0, sum);
}

template <int kWidth>
result<void> run(const activation_matrix& x, const packed_matrix& w, narrow_parameters p, bool early, cudaStream_t stream) {
  constexpr int kMap = kWidth == 8 ? 0 : kWidth == 16 ? 1 : kWidth == 32 ? 2 : 3;
  p.row_tiles = (p.rows + kWidth - 1) / kWidth;
  const launch_shape shape{dim3((p.features + 63) / 64 * p.splits * p.row_tiles), dim3(160), shared_bytes_for(kWidth)};
  return launch("multiply_narrow (packed)", packed_kernel<kWidth>, shape, stream, early, w, x.maps[kMap], p);
}

template <int... kWidths>
result<void> prepare_widths() {
  result<void> done;
  ((done = done ? allow_shared_memory(packed_kernel<kWidths>, shared_bytes_for(kWidths), "preparing multiply_narrow")
                : done),
   ...);
  return done;
}

}  // namespace

result<void> prepare_packed() { return prepare_widths<8, 16, 32, 64, 128, 256>(); }

result<void> multiply_packed(const activation_matrix& x, const packed_matrix& w, const narrow_parameters& p, bool early,
                             cudaStream_t stream) {
  if (p.rows <= 8) return run<8>(x, w, p, early, stream);
  if (p.rows <= 16) return run<16>(x, w, p, early, stream);
  if (p.rows <= 32) return run<32>(x, w, p, early, stream);
  if (p.rows <= 64) return run<64>(x, w, p, early, stream);
  if (p.rows <= 128) return run<128>(x, w, p, early, stream);
  return run<256>(x, w, p, early, stream);
}

}  // namespace troupe::gpu::cuda
