// multiply_narrow over packed weights: tiles come to shared memory as they are stored, some at a time; each thread unpacks
// its part of one to registers, from where the tensor cores take it, while they multiply the one before.
#include <algorithm>
#include <bit>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_narrow.cuh"
#include "gpu/cuda/gemm_units.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint32_t most_stages = 16;
constexpr std::size_t barrier_bytes = std::size_t{3} * most_stages * sizeof(std::uint64_t);

// How more than 16 rows are multiplied: warpgroups of a block that share the activations, the ring's bytes, and blocks that fit a
// multiprocessor.
struct block_shape {
  int groups;
  std::uint32_t ring_bytes, blocks;
};
// groups: 1, 2 or 4, as the weights allow.
constexpr block_shape shape_of(int width, int groups) {
  switch (width) {
    case 32:
      return groups == 1 ? block_shape{1, 74 * 1024, 3} : block_shape{2, 72 * 1024, 2};
    case 64:
      return groups == 4   ? block_shape{4, 150 * 1024, 1}
             : groups == 2 ? block_shape{2, 104 * 1024, 1}
                           : block_shape{1, 104 * 1024, 2};
    case 128:
      return groups == 1 ? block_shape{1, 84 * 1024, 2} : block_shape{2, 150 * 1024, 1};
    default:
      return {std::min(groups, 2), 222 * 1024, 1};
  }
}

__host__ __device__ constexpr std::uint32_t stages_of(packed_format f, int groups, int width,
                                                      std::uint32_t ring_bytes) {
  const std::uint32_t fit = ring_bytes / packed_stage_bytes(f, groups, width);
  return fit < most_stages ? fit : most_stages;
}

// What a block multiplies: `steps` tiles from first_step on, rows from row0 on. A turn: of a stage.
struct packed_part {
  std::uint32_t first_step, steps;
  int row0;
  template <packed_format kFormat, int kWidth>
  __device__ __forceinline__ std::uint32_t turns() const {
    constexpr std::uint32_t kTiles = packed_stage_tiles(kFormat, kWidth);
    return (steps + kTiles - 1) / kTiles;
  }
  template <packed_format kFormat, int kWidth>
  __device__ __forceinline__ std::uint32_t tiles(std::uint32_t turn) const {
    constexpr std::uint32_t kTiles = packed_stage_tiles(kFormat, kWidth);
    return min(kTiles, steps - turn * kTiles);
  }
  // Of its activations.
  template <packed_format kFormat, int kWidth>
  __device__ __forceinline__ std::uint32_t input_bytes(std::uint32_t turn,
                                                       const narrow_parameters& p) const {
    return tiles<kFormat, kWidth>(turn) * (kWidth > 8 ? kWidth : p.box_rows) * 128;
  }
};

// The activations of turn s.
template <int kWidth, packed_format kFormat>
__device__ __forceinline__ void load_inputs(const packed_ring_memory& ring,
                                            const CUtensorMap& activations, const packed_part& part,
                                            std::uint32_t s, std::uint32_t stage) {
  constexpr std::uint32_t kTiles = packed_stage_tiles(kFormat, kWidth), kInputBytes = kWidth * 128;
  constexpr int kBoxRows = kWidth < 64 ? kWidth : 64;
  for (std::uint32_t t = 0; t < part.tiles<kFormat, kWidth>(s); ++t) {
    std::uint8_t* to = ring.inputs + (stage * kTiles + t) * kInputBytes;
    const int x = static_cast<int>((part.first_step + s * kTiles + t) * depth_step);
    for (int r = 0; r < kWidth; r += kBoxRows)
      copy_tile_2d(to + r * 128, &activations, ring.full + stage, x, part.row0 + r);
  }
}

// Whether few stages of weights are on their way at a time, one until the activations are there and then two, and the warps that multiply
// ask for the first activations themselves. E4M3 of few rows gains 3 %, for which memory is all that counts; nothing else does. A kernel
// of its own: together with other formats, their products got fewer registers and took 2 % longer.
__host__ __device__ constexpr bool is_paced(packed_format f, int width) {
  return f == packed_format::f8 && width <= 16;
}

// By one thread: weights and activations into the ring. The rows of tiles of its warpgroups follow each other.
template <int kGroups, int kWidth, packed_format kFormat>
__device__ __forceinline__ void produce(const packed_ring_memory& ring, const std::uint8_t* weights,
                                        const CUtensorMap& activations, const narrow_parameters& p,
                                        const packed_part& part) {
  constexpr std::uint32_t kTiles = packed_stage_tiles(kFormat, kWidth),
                          kQuantBytes = packed_quant_bytes(kFormat),
                          kSlotBytes = packed_slot_bytes(kFormat, kWidth);
  const std::uint64_t policy = evict_first_policy();
  const std::size_t row_bytes = std::size_t{p.depth_steps} * packed_tile_bytes(kFormat);
  // more: bytes that `bar` waits for besides.
  const auto load_weights = [&](std::uint32_t s, std::uint32_t stage, std::uint64_t* bar,
                                std::uint32_t more) {
    const std::uint32_t step = part.first_step + s * kTiles,
                        tiles = part.template tiles<kFormat, kWidth>(s);
    std::uint8_t* slot = ring.weights + stage * kGroups * kSlotBytes;
    if constexpr (packed_group(kFormat) > kTiles) {
      constexpr std::uint32_t kScaleBytes = packed_scale_bytes(kFormat);
      const packed_tile from = tile_of(weights, kFormat, step, 0);
      const bool scales = s % 2 == 0;  // a group's come with the first of its two stages
      barrier_expect(bar, kGroups * (kTiles * kQuantBytes + (scales ? kScaleBytes : 0)) + more);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        copy_bulk(slot + g * kSlotBytes, from.quants + g * row_bytes, kTiles * kQuantBytes, bar,
                  policy);
        if (scales)
          copy_bulk(slot + g * kSlotBytes + kTiles * kQuantBytes, from.scales + g * row_bytes,
                    kScaleBytes, bar, policy);
      }
    } else {
      const std::uint32_t bytes = tiles * packed_tile_bytes(kFormat);
      const std::uint8_t* from = weights + std::size_t{step} * packed_tile_bytes(kFormat);
      barrier_expect(bar, kGroups * bytes + more);
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
        copy_bulk(slot + g * kSlotBytes, from + g * row_bytes, bytes, bar, policy);
    }
  };
  const auto input_bytes = [&](std::uint32_t s) {
    return part.template input_bytes<kFormat, kWidth>(s, p);
  };
  const std::uint32_t turns = part.template turns<kFormat, kWidth>(),
                      ahead = min(turns, ring.stages);
  packed_ring_position at;
  const auto refill = [&](std::uint32_t s) {
    barrier_wait(ring.empty + at.stage, at.phase);
    load_weights(s, at.stage, ring.full + at.stage, input_bytes(s));
    load_inputs<kWidth, kFormat>(ring, activations, part, s, at.stage);
  };
  if constexpr (is_paced(kFormat, kWidth)) {
    pacer pace(1, 2, ring.stages, ring.landed, ring.full, ring.full);
    for (std::uint32_t s = 0; s < ahead; ++s) {
      pace.wait(s);
      load_weights(s, s, ring.landed + s, 0);
    }
    pace.finish_turn(turns);
    for (std::uint32_t s = ahead; s < turns; ++s, at.advance(ring.stages)) {
      pace.wait(s);
      refill(s);
      barrier_arrive(ring.full + at.stage);
    }
  } else {
    for (std::uint32_t s = 0; s < ahead; ++s) load_weights(s, s, ring.full + s, input_bytes(s));
    wait_for_previous_kernel();
    for (std::uint32_t s = 0; s < ahead; ++s)
      load_inputs<kWidth, kFormat>(ring, activations, part, s, s);
    for (std::uint32_t s = ahead; s < turns; ++s, at.advance(ring.stages)) refill(s);
  }
}

// Two warpgroups over 256 rows need more registers than three warps of a quarter of a multiprocessor may have: a whole warpgroup
// feeds them, and leaves them its own.
__host__ __device__ constexpr bool shifts_registers(int groups, int width) {
  return groups == 2 && width == 256;
}
__host__ __device__ constexpr std::uint32_t threads_of(int groups, int width) {
  return static_cast<std::uint32_t>(groups) * 128 + (shifts_registers(groups, width) ? 128 : 32);
}

// kGroups: warpgroups of a block, each of 64 features; tiles that share activations, which then come from L2 once for all of
// them. All are of one run of the matrix. ring_bytes: a multiple of 128; as many stages as fit are used.
template <int kGroups, int kWidth, bool kPaced>
__global__ void __launch_bounds__(threads_of(kGroups, kWidth))
    packed_kernel(const packed_matrix weights, const __grid_constant__ CUtensorMap activations,
                  const narrow_parameters p, std::uint32_t ring_bytes) {
  extern __shared__ __align__(1024) std::uint8_t shared[];
  auto* full = reinterpret_cast<std::uint64_t*>(shared + ring_bytes);
  if (threadIdx.x < most_stages) {
    barrier_init(full + threadIdx.x, kPaced ? 2 : 1);  // weights, activations
    barrier_init(full + most_stages + threadIdx.x, kGroups * 4 * arrivals_of_warp);
    barrier_init(full + 2 * most_stages + threadIdx.x, 1);
    barrier_init_fence();
  }
  if (threadIdx.x == kGroups * 128) prefetch_map(&activations);
  const tile_position tile =
      locate(blockIdx.x, p, (p.features + kGroups * 64 - 1) / (kGroups * 64));
  const std::uint32_t first_step = first_step_of(p, tile.split);
  const packed_part part{first_step, first_step_of(p, tile.split + 1) - first_step,
                         static_cast<int>(tile.row_tile * kWidth)};
  const std::uint32_t first_tile = tile.feature_tile * kGroups;
  const packed_row source = find_row(weights, first_tile, p.depth_steps);
  const auto* row = reinterpret_cast<const std::uint8_t*>(weights.data) + source.offset;
  __syncthreads();
  let_next_kernel_start();

  const auto ring_of = [&](packed_format format) {
    const std::uint32_t stages = stages_of(format, kGroups, kWidth, ring_bytes);
    return packed_ring_memory{shared,
                              shared + stages * packed_stage_tiles(format, kWidth) * kWidth * 128,
                              full,
                              full + most_stages,
                              full + 2 * most_stages,
                              stages};
  };
  if (threadIdx.x >= kGroups * 128) {
    if constexpr (shifts_registers(kGroups, kWidth)) give_registers<40>();
    if (threadIdx.x >= kGroups * 128 + 32 || !elect_lane()) return;
    with_format(
        source.format, [&]<packed_format kFormat>() __attribute__((always_inline)) {
          if constexpr (kPaced == is_paced(kFormat, kWidth))
            produce<kGroups, kWidth, kFormat>(ring_of(kFormat), row, activations, p, part);
        });
    return;
  }
  if constexpr (shifts_registers(kGroups, kWidth)) take_registers<232>();
  float sum[kWidth / 2];
  with_format(
      source.format, [&]<packed_format kFormat>() __attribute__((always_inline)) {
        if constexpr (kPaced == is_paced(kFormat, kWidth)) {
          const packed_ring_memory ring = ring_of(kFormat);
          if constexpr (kPaced) {
            // A warp a stage: one would be busy for long.
            const std::uint32_t ahead = min(part.template turns<kFormat, kWidth>(), ring.stages);
            wait_for_previous_kernel();
            for (std::uint32_t s = threadIdx.x / 32; s < ahead; s += 4 * kGroups) {
              if (!elect_lane()) continue;
              barrier_expect(ring.full + s, part.template input_bytes<kFormat, kWidth>(s, p));
              load_inputs<kWidth, kFormat>(ring, activations, part, s, s);
            }
            __syncwarp();
          }
          consume_packed<kGroups, kWidth, kFormat>(sum, ring, part.steps);
        }
      });
  store_tile<kWidth>(p, tile.split, (first_tile + threadIdx.x / 128) * 64,
                     static_cast<std::uint32_t>(part.row0), sum, packed_gain(source.format));
}

// Whole stages, no more than a block's tiles need: what it leaves lets the next kernel's blocks start early.
std::uint32_t ring_bytes_of(const packed_matrix& w, const narrow_parameters& p, int groups,
                            int width) {
  const std::uint32_t most =
      width <= 16 ? tuning_of_packed().ring_bytes : shape_of(width, groups).ring_bytes;
  const std::uint32_t unit = splits_groups(p) ? 4 : 1;
  const std::uint32_t steps = (p.depth_steps / unit + p.splits - 1) / p.splits * unit;
  std::uint32_t bytes = 0;
  for (const packed_format f : w.format) {
    if (f == packed_format::none) continue;
    TROUPE_ASSERT(packed_group(f) == 1 || unit == 4);
    const std::uint32_t tiles = packed_stage_tiles(f, width), needed = (steps + tiles - 1) / tiles,
                        fit = stages_of(f, groups, width, most);
    // Products of a warpgroup free a stage once they have started the next one.
    TROUPE_ASSERT(fit >= (width > 16 ? std::min(2u, needed) : 1u));
    bytes = std::max(bytes, std::min(fit, needed) * packed_stage_bytes(f, groups, width));
  }
  return bytes;
}

template <int kGroups, int kWidth, bool kPaced = false>
result<void> run(const activation_matrix& x, const packed_matrix& w, narrow_parameters p,
                 bool early, cudaStream_t stream) {
  p.box_rows = activation_matrix::box_rows(p.rows, kWidth);
  p.row_tiles = (p.rows + kWidth - 1) / kWidth;
  const std::uint32_t ring_bytes = ring_bytes_of(w, p, kGroups, kWidth),
                      feature_tiles = (p.features + kGroups * 64 - 1) / (kGroups * 64);
  const launch_shape shape{dim3(feature_tiles * p.splits * p.row_tiles),
                           dim3(threads_of(kGroups, kWidth)), ring_bytes + barrier_bytes};
  return launch("multiply_narrow (packed)", packed_kernel<kGroups, kWidth, kPaced>, shape, stream,
                early, w, x.box(p.box_rows), p, ring_bytes);
}

// Whether so many rows of tiles from any multiple of their number on are of one run.
bool fits_groups(const packed_matrix& w, std::uint32_t features, std::uint32_t groups) {
  return features % (groups * 64) == 0 &&
         std::all_of(std::begin(w.first_tile), std::end(w.first_tile), [&](std::uint32_t tile) {
           return std::uint64_t{tile} * 64 >= features || tile % groups == 0;
         });
}
block_shape shape_for(const packed_matrix& w, std::uint32_t features, int width) {
  for (const int groups : {4, 2})
    if (fits_groups(w, features, static_cast<std::uint32_t>(groups)))
      return shape_of(width, groups);
  return shape_of(width, 1);
}

template <int kWidth>
result<void> run_groups(const activation_matrix& x, const packed_matrix& w,
                        const narrow_parameters& p, bool early, cudaStream_t stream) {
  const int groups = shape_for(w, p.features, kWidth).groups;
  if constexpr (kWidth == 64) {
    if (groups == 4) return run<4, kWidth>(x, w, p, early, stream);
  }
  return groups == 2 ? run<2, kWidth>(x, w, p, early, stream)
                     : run<1, kWidth>(x, w, p, early, stream);
}

// Rows of activations that a block has.
int packed_width(std::uint32_t rows) {
  return static_cast<int>(std::clamp(std::bit_ceil(rows), 8u, 256u));
}

template <int kGroups, bool kPaced, int... kWidths>
result<void> prepare_widths() {
  result<void> done;
  ((done = done ? allow_shared_memory(packed_kernel<kGroups, kWidths, kPaced>,
                                      226 * 1024 + barrier_bytes, "preparing multiply_narrow")
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
  TROUPE_CHECK(prepare_widths<1, true, 8, 16>());
  TROUPE_CHECK(prepare_widths<1, false, 8, 16, 32, 64, 128, 256>());
  TROUPE_CHECK(prepare_widths<2, false, 32, 64, 128, 256>());
  return prepare_widths<4, false, 64>();
}

std::uint32_t packed_splits(const weight_matrix& w, std::uint32_t rows,
                            std::uint32_t multiprocessors) {
  const block_shape shape = shape_for(w.packed, w.rows, packed_width(rows));
  const std::uint32_t tile_rows = static_cast<std::uint32_t>(shape.groups) * 64,
                      tiles = (w.rows + tile_rows - 1) / tile_rows * ((rows + 255) / 256),
                      most = std::min(tuning_of_packed().most_splits, w.columns / 256);
  return std::bit_floor(std::clamp(multiprocessors * shape.blocks / tiles, 1u, std::max(most, 1u)));
}

result<void> multiply_packed(const activation_matrix& x, const packed_matrix& w,
                             const narrow_parameters& p, bool early, cudaStream_t stream) {
  const bool paced = is_paced(w.format[0], packed_width(p.rows));  // E4M3 is of all runs
  switch (packed_width(p.rows)) {
    case 8:
      return paced ? run<1, 8, true>(x, w, p, early, stream) : run<1, 8>(x, w, p, early, stream);
    case 16:
      return paced ? run<1, 16, true>(x, w, p, early, stream) : run<1, 16>(x, w, p, early, stream);
    case 32:
      return run_groups<32>(x, w, p, early, stream);
    case 64:
      return run_groups<64>(x, w, p, early, stream);
    case 128:
      return run_groups<128>(x, w, p, early, stream);
    default:
      return run_groups<256>(x, w, p, early, stream);
  }
}

}  // namespace troupe::gpu::cuda
