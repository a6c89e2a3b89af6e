// multiply_narrow over packed weights: tiles come to shared memory as they are stored, some at a time; each thread unpacks
// its part of one to registers, from where the tensor cores take it, while they multiply the one before.
#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_narrow.cuh"
#include "gpu/cuda/gemm_units.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint32_t most_stages = 16;
constexpr std::size_t barrier_bytes = std::size_t{2} * most_stages * sizeof(std::uint64_t);

// Of the ring over more than 16 rows, so that 3, 2, 2, and 1 blocks fit a multiprocessor, with room for what comes next.
constexpr std::uint32_t ring_bytes_for(int width) {
  return (width <= 32 ? 74 : width <= 64 ? 104 : width <= 128 ? 84 : 152) * 1024;
}

__host__ __device__ constexpr std::uint32_t stages_of(packed_format f, int width,
                                                      std::uint32_t ring_bytes) {
  const std::uint32_t fit = ring_bytes / packed_stage_bytes(f, width);
  return fit < most_stages ? fit : most_stages;
}

// What one block does of the producer's part: weights and activations of `steps` tiles into the ring.
template <int kWidth, packed_format kFormat>
__device__ __forceinline__ void produce(const packed_ring_memory& ring, const std::uint8_t* weights,
                                        const CUtensorMap& activations, std::uint32_t box_rows,
                                        int row0, std::uint32_t first_step, std::uint32_t steps) {
  constexpr std::uint32_t kTiles = packed_stage_tiles(kFormat, kWidth), kInputBytes = kWidth * 128;
  constexpr std::uint32_t kQuantBytes = packed_quant_bytes(kFormat);
  constexpr int kBoxRows = kWidth < 64 ? kWidth : 64;
  const std::uint64_t policy = evict_first_policy();
  const auto load_weights = [&](std::uint32_t s, std::uint32_t stage) {
    const std::uint32_t step = first_step + s * kTiles, tiles = min(kTiles, steps - s * kTiles);
    const std::uint32_t input_bytes = tiles * (kWidth > 8 ? kWidth : box_rows) * 128;
    std::uint8_t* slot = ring.weights + stage * packed_slot_bytes(kFormat, kWidth);
    if constexpr (packed_group(kFormat) > kTiles) {
      constexpr std::uint32_t kScaleBytes = packed_scale_bytes(kFormat);
      const packed_tile from = tile_of(weights, kFormat, step, 0);
      barrier_expect(ring.full + stage, kTiles * kQuantBytes + kScaleBytes + input_bytes);
      copy_bulk(slot, from.quants, kTiles * kQuantBytes, ring.full + stage, policy);
      copy_bulk(slot + kTiles * kQuantBytes, from.scales, kScaleBytes, ring.full + stage,
                evict_normal_policy());
    } else {
      const std::uint32_t bytes = tiles * packed_tile_bytes(kFormat);
      barrier_expect(ring.full + stage, bytes + input_bytes);
      copy_bulk(slot, weights + std::size_t{step} * packed_tile_bytes(kFormat), bytes,
                ring.full + stage, policy);
    }
  };
  const auto load_activations = [&](std::uint32_t s, std::uint32_t stage) {
    for (std::uint32_t t = 0; t < min(kTiles, steps - s * kTiles); ++t) {
      std::uint8_t* to = ring.inputs + (stage * kTiles + t) * kInputBytes;
      const int x = static_cast<int>((first_step + s * kTiles + t) * depth_step);
      for (int r = 0; r < kWidth; r += kBoxRows)
        copy_tile_2d(to + r * 128, &activations, ring.full + stage, x, row0 + r);
    }
  };
  const std::uint32_t turns = (steps + kTiles - 1) / kTiles, ahead = min(turns, ring.stages);
  for (std::uint32_t s = 0; s < ahead; ++s) load_weights(s, s);
  wait_for_previous_kernel();
  for (std::uint32_t s = 0; s < ahead; ++s) load_activations(s, s);
  packed_ring_position at;
  for (std::uint32_t s = ahead; s < turns; ++s, at.advance(ring.stages)) {
    barrier_wait(ring.empty + at.stage, at.phase);
    load_weights(s, at.stage);
    load_activations(s, at.stage);
  }
}

// ring_bytes: a multiple of 128; as many stages as fit are used.
template <int kWidth>
__global__ void __launch_bounds__(160)
    packed_kernel(const packed_matrix weights, const __grid_constant__ CUtensorMap activations,
                  const narrow_parameters p, std::uint32_t ring_bytes) {
  extern __shared__ __align__(1024) std::uint8_t shared[];
  auto* full = reinterpret_cast<std::uint64_t*>(shared + ring_bytes);
  if (threadIdx.x < most_stages) {
    barrier_init(full + threadIdx.x, 1);
    barrier_init(full + most_stages + threadIdx.x, 4);
    barrier_init_fence();
  }
  if (threadIdx.x == 128) prefetch_map(&activations);
  const tile_position tile = locate(blockIdx.x, p, (p.features + 63) / 64);
  const std::uint32_t first_step = first_step_of(p, tile.split);
  const std::uint32_t steps = first_step_of(p, tile.split + 1) - first_step;
  const std::uint32_t row0 = tile.row_tile * kWidth;
  const packed_row source = find_row(weights, tile.feature_tile, p.depth_steps);
  const auto* row = reinterpret_cast<const std::uint8_t*>(weights.data) + source.offset;
  __syncthreads();
  let_next_kernel_start();

  float sum[kWidth / 2];
  with_format(
      source.format, [&]<packed_format kFormat>() __attribute__((always_inline)) {
        const std::uint32_t stages = stages_of(kFormat, kWidth, ring_bytes);
        const packed_ring_memory ring{
            shared, shared + stages * packed_stage_tiles(kFormat, kWidth) * kWidth * 128, full,
            full + most_stages, stages};
        if (threadIdx.x >= 128) {
          if (threadIdx.x == 128) {
            produce<kWidth, kFormat>(ring, row, activations, p.box_rows, static_cast<int>(row0),
                                     first_step, steps);
          }
        } else {
          consume_packed<kWidth, kFormat>(sum, ring, first_step, steps);
        }
      });
  if (threadIdx.x >= 128) return;
  store_tile<kWidth>(p, tile.split, tile.feature_tile * 64, row0, sum, packed_gain(source.format));
}

// Whole stages, no more than a block's tiles need: what it leaves lets the next kernel's blocks start early.
std::uint32_t ring_bytes_of(const packed_matrix& w, const narrow_parameters& p, int width) {
  const std::uint32_t most = width <= 16 ? tuning_of_packed().ring_bytes : ring_bytes_for(width);
  const std::uint32_t unit = splits_groups(p) ? 4 : 1;
  const std::uint32_t steps = (p.depth_steps / unit + p.splits - 1) / p.splits * unit;
  std::uint32_t bytes = 0;
  for (const packed_format f : w.format) {
    if (f == packed_format::none) continue;
    TROUPE_ASSERT(packed_group(f) == 1 || unit == 4);
    const std::uint32_t tiles = packed_stage_tiles(f, width), needed = (steps + tiles - 1) / tiles;
    // Products of a warpgroup free a stage once they have started the next one.
    TROUPE_ASSERT(stages_of(f, width, most) >= (width > 16 ? std::min(2u, needed) : 1u));
    bytes =
        std::max(bytes, std::min(stages_of(f, width, most), needed) * packed_stage_bytes(f, width));
  }
  return bytes;
}

template <int kWidth>
result<void> run(const activation_matrix& x, const packed_matrix& w, narrow_parameters p,
                 bool early, cudaStream_t stream) {
  p.box_rows = activation_matrix::box_rows(p.rows, kWidth);
  p.row_tiles = (p.rows + kWidth - 1) / kWidth;
  const std::uint32_t ring_bytes = ring_bytes_of(w, p, kWidth);
  const launch_shape shape{dim3((p.features + 63) / 64 * p.splits * p.row_tiles), dim3(160),
                           ring_bytes + barrier_bytes};
  return launch("multiply_narrow (packed)", packed_kernel<kWidth>, shape, stream, early, w,
                x.box(p.box_rows), p, ring_bytes);
}

template <int... kWidths>
result<void> prepare_widths() {
  result<void> done;
  ((done =
        done ? allow_shared_memory(packed_kernel<kWidths>, ring_bytes_for(kWidths) + barrier_bytes,
                                   "preparing multiply_narrow")
             : done),
   ...);
  return done;
}

}  // namespace

packed_tuning& tuning_of_packed() {
  static packed_tuning tuning;
  return tuning;
}

result<void> prepare_packed() {
  return prepare_widths<8, 16, 32, 64, 128, 256>();
}

result<void> multiply_packed(const activation_matrix& x, const packed_matrix& w,
                             const narrow_parameters& p, bool early, cudaStream_t stream) {
  if (p.rows <= 8) return run<8>(x, w, p, early, stream);
  if (p.rows <= 16) return run<16>(x, w, p, early, stream);
  if (p.rows <= 32) return run<32>(x, w, p, early, stream);
  if (p.rows <= 64) return run<64>(x, w, p, early, stream);
  if (p.rows <= 128) return run<128>(x, w, p, early, stream);
  return run<256>(x, w, p, early, stream);
}

}  // namespace troupe::gpu::cuda
