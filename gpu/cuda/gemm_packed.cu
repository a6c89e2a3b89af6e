// multiply_narrow over packed weights: tiles come to shared memory as they are stored, two at a time; each thread unpacks
// its part of one to registers, from where the tensor cores take it, while they multiply the one before.
#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_narrow.cuh"
#include "gpu/cuda/gemm_units.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

// Of a stage: two tiles. Matrices that are all q4 have rings for q4 alone, as deep in the same memory, or smaller so that
// more blocks fit.
__host__ __device__ constexpr std::uint32_t slot_bytes_for(packed_ring ring) {
  return ring == packed_ring::any ? 2 * 4608 : 2 * 2560;
}
__host__ __device__ constexpr int stages_for(packed_ring ring, int width) {
  if (ring == packed_ring::deep) return width <= 16 ? 8 : 6;
  return width <= 16 ? 5 : width <= 64 ? 4 : 2;
}
__host__ __device__ constexpr std::size_t shared_bytes_for(packed_ring ring, int width) {
  return static_cast<std::size_t>(stages_for(ring, width)) *
             (slot_bytes_for(ring) + 2 * width * 128) +
         256;
}

template <packed_ring kRing, int kWidth>
__global__ void __launch_bounds__(160)
    packed_kernel(const packed_matrix weights, const __grid_constant__ CUtensorMap activations,
                  const narrow_parameters p) {
  constexpr std::uint32_t slot_bytes = slot_bytes_for(kRing);
  constexpr int kStages = stages_for(kRing, kWidth), kBoxRows = kWidth < 64 ? kWidth : 64;
  constexpr std::uint32_t kInputBytes = kWidth * 128, kStageBytes = slot_bytes + 2 * kInputBytes;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t* stages = shared;
  auto* full = reinterpret_cast<std::uint64_t*>(stages + kStages * kStageBytes);
  auto* empty = full + kStages;
  const tile_position tile = locate(blockIdx.x, p, (p.features + 63) / 64);
  const std::uint32_t first_step = p.depth_steps * tile.split / p.splits;
  const std::uint32_t steps = p.depth_steps * (tile.split + 1) / p.splits - first_step;
  const std::uint32_t pairs = (steps + 1) / 2, row0 = tile.row_tile * kWidth;
  packed_row source = find_row(weights, tile.feature_tile, p.depth_steps);
  if constexpr (kRing != packed_ring::any) source.format = packed_format::q4;
  const std::uint32_t tile_bytes = packed_tile_bytes(source.format);

  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, 4);  // warps: each reads its own part of a tile at its own time
    }
    barrier_init_fence();
  }
  __syncthreads();
  let_next_kernel_start();

  if (threadIdx.x >= 128) {  // the producer
    if (threadIdx.x % 32 != 0) return;
    const std::uint64_t policy = evict_first_policy();
    const std::byte* from = weights.data + source.offset + std::size_t{first_step} * tile_bytes;
    const auto load_weights = [&](std::uint32_t pair, std::uint32_t stage) {
      const std::uint32_t tiles = min(2u, steps - 2 * pair);
      barrier_expect(full + stage, tiles * (tile_bytes + (kWidth > 8 ? kWidth : p.box_rows) * 128));
      copy_bulk(stages + stage * kStageBytes, from + std::size_t{2 * pair} * tile_bytes,
                tiles * tile_bytes, full + stage, policy);
    };
    const auto load_activations = [&](std::uint32_t pair, std::uint32_t stage) {
      for (std::uint32_t t = 0; t < min(2u, steps - 2 * pair); ++t) {
        std::uint8_t* to = stages + stage * kStageBytes + slot_bytes + t * kInputBytes;
        const int x = static_cast<int>((first_step + 2 * pair + t) * depth_step);
        for (int r = 0; r < kWidth; r += kBoxRows) {
          copy_tile_2d(to + r * 128, &activations, full + stage, x, static_cast<int>(row0) + r);
        }
      }
    };
    const std::uint32_t ahead = min(pairs, static_cast<std::uint32_t>(kStages));
    for (std::uint32_t s = 0; s < ahead; ++s) load_weights(s, s);
    wait_for_previous_kernel();
    for (std::uint32_t s = 0; s < ahead; ++s) load_activations(s, s);
    ring_position<kStages> at;
    for (std::uint32_t s = kStages; s < pairs; ++s, at.advance()) {
      barrier_wait(empty + at.stage, at.phase);
      load_weights(s, at.stage);
      load_activations(s, at.stage);
    }
    return;
  }

  float sum[kWidth / 2];
  ring_position<kStages> at;
  consume_packed<kWidth, kRing == packed_ring::any ? packed_format::none : packed_format::q4>(
      sum, at, {stages, kStageBytes, slot_bytes, full, empty}, source.format, steps);
  store_tile<kWidth>(p, tile.split, tile.feature_tile * 64, row0, sum);
}

template <packed_ring kRing, int kWidth>
result<void> run(const activation_matrix& x, const packed_matrix& w, narrow_parameters p,
                 bool early, cudaStream_t stream) {
  p.box_rows = activation_matrix::box_rows(p.rows, kWidth);
  p.row_tiles = (p.rows + kWidth - 1) / kWidth;
  const launch_shape shape{dim3((p.features + 63) / 64 * p.splits * p.row_tiles), dim3(160),
                           shared_bytes_for(kRing, kWidth)};
  return launch("multiply_narrow (packed)", packed_kernel<kRing, kWidth>, shape, stream, early, w,
                x.box(p.box_rows), p);
}

template <packed_ring kRing, int... kWidths>
result<void> prepare_widths() {
  result<void> done;
  ((done = done ? allow_shared_memory(packed_kernel<kRing, kWidths>,
                                      shared_bytes_for(kRing, kWidths), "preparing multiply_narrow")
                : done),
   ...);
  return done;
}

// Rows beyond this reuse weights enough that the ring does not matter.
constexpr std::uint32_t q4_ring_rows = 32;

template <packed_ring kRing>
result<void> run_few(const activation_matrix& x, const packed_matrix& w, const narrow_parameters& p,
                     bool early, cudaStream_t stream) {
  if (p.rows <= 8) return run<kRing, 8>(x, w, p, early, stream);
  if (p.rows <= 16) return run<kRing, 16>(x, w, p, early, stream);
  return run<kRing, 32>(x, w, p, early, stream);
}

bool is_q4(const packed_matrix& w) {
  return std::none_of(std::begin(w.format), std::end(w.format),
                      [](packed_format f) { return f > packed_format::q4; });
}

}  // namespace

packed_tuning& tuning_of_packed() {
  static packed_tuning tuning;
  return tuning;
}

result<void> prepare_packed() {
  TROUPE_CHECK((prepare_widths<packed_ring::deep, 8, 16, 32>()));
  TROUPE_CHECK((prepare_widths<packed_ring::small, 8, 16, 32>()));
  return prepare_widths<packed_ring::any, 8, 16, 32, 64, 128, 256>();
}

result<void> multiply_packed(const activation_matrix& x, const packed_matrix& w,
                             const narrow_parameters& p, bool early, cudaStream_t stream) {
  const packed_ring ring = tuning_of_packed().ring;
  if (p.rows <= q4_ring_rows && ring != packed_ring::any && is_q4(w)) {
    return ring == packed_ring::deep ? run_few<packed_ring::deep>(x, w, p, early, stream)
                                     : run_few<packed_ring::small>(x, w, p, early, stream);
  }
  if (p.rows <= 32) return run_few<packed_ring::any>(x, w, p, early, stream);
  if (p.rows <= 64) return run<packed_ring::any, 64>(x, w, p, early, stream);
  if (p.rows <= 128) return run<packed_ring::any, 128>(x, w, p, early, stream);
  return run<packed_ring::any, 256>(x, w, p, early, stream);
}

}  // namespace troupe::gpu::cuda
