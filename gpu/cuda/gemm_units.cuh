// What a warpgroup does with one unit of a product with few rows, 64 features over some of the reduced dimension, once a
// ring brings it tiles: the same instructions in the same order, and so the same bits, in every kernel that has such units.
//
// Device code only, sm_90a.
#pragma once

#include "gpu/cuda/packed.cuh"
#include "gpu/cuda/warp_products.cuh"
#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda {

// As ring_position, of a ring whose size is known when it runs.
struct packed_ring_position {
  std::uint32_t stage = 0, phase = 0;
  __device__ void advance(std::uint32_t stages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Whether a block may ask for more weights: at most so many stages are on their way at a time, fewer until the activations are there.
// By the one thread that asks.
class pacer {
 public:
  // full: a stage's weights are there, and what else its barrier counts. landed: of the ring's first turn the weights alone are, which
  // then arrive at `full` when this thread sees them; nullptr: they are all that `full` counts. there: the first activations are.
  __device__ pacer(std::uint32_t ahead, std::uint32_t later, std::uint32_t stages,
                   std::uint64_t* landed, std::uint64_t* full, std::uint64_t* there)
      : most_(max(1u, min(ahead, stages))),
        later_(max(1u, min(later, stages))),
        stages_(stages),
        landed_(landed),
        full_(full),
        there_(there) {}
  // Before stage number `step` is asked for, in the order of steps.
  __device__ void wait(std::uint32_t step) {
    // Not seen if the barrier is two phases on: then the ring has turned.
    if (most_ != later_ && (step >= stages_ || barrier_passed(there_, 0))) most_ = later_;
    see(step + 1 - min(most_, step + 1));
  }
  // All of the ring's first turn, of which `steps` have been asked for.
  __device__ void finish_turn(std::uint32_t steps) { see(min(steps, stages_)); }

 private:
  __device__ void see(std::uint32_t count) {
    for (; seen_ < count; ++seen_) {
      if (landed_ != nullptr && seen_ < stages_) {
        barrier_wait(landed_ + at_.stage, 0);
        barrier_arrive(full_ + at_.stage);
      } else {
        barrier_wait(full_ + at_.stage, at_.phase);
      }
      at_.advance(stages_);
    }
  }
  std::uint32_t most_, later_, stages_, seen_ = 0;
  packed_ring_position at_;  // of the next one to be seen
  std::uint64_t *landed_, *full_, *there_;
};

// A ring of stages in shared memory: first weights, `slot_bytes`, then activations.
struct ring_memory {
  std::uint8_t* stages;
  std::uint32_t stage_bytes, slot_bytes;
  std::uint64_t *full, *empty;
};

// One tile: 64 columns in four steps.
template <int kCount>
__device__ __forceinline__ void start_tile(float (&sum)[kCount], const std::uint32_t (&values)[16],
                                           std::uint64_t input, bool accumulate) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const std::uint32_t a[4] = {values[4 * k], values[4 * k + 1], values[4 * k + 2],
                                values[4 * k + 3]};
    multiply_bf16_registers(sum, a, input + 2 * k, accumulate || k > 0);
  }
}

// Of the activations' tile, 32 columns from chunk `first` of 8 on; the swizzle is the copy engine's.
__device__ __forceinline__ void load_input(const std::uint8_t* tile, std::uint32_t first,
                                           std::uint32_t (&b)[4]) {
  const std::uint32_t row = threadIdx.x % 8, chunk = first + threadIdx.x % 32 / 8;
  load_matrices(shared_address(tile) + row * 128 + ((chunk ^ row) * 16), b);
}

// How packed weights come to shared memory: so many tiles a stage, the stages' activations first, then their weights. Over few
// rows a group of tiles with its scales is one copy; over more, activations need the room, and a stage is two tiles and a
// copy of their group's scales.
__host__ __device__ constexpr std::uint32_t packed_stage_tiles(packed_format f, int width) {
  return width <= 16 && (packed_group(f) == 4 || f == packed_format::q4_0) ? 4 : 2;
}
__host__ __device__ constexpr std::uint32_t packed_slot_bytes(packed_format f, int width) {
  const std::uint32_t tiles = packed_stage_tiles(f, width);
  return tiles * packed_quant_bytes(f) + (packed_group(f) == 1 ? tiles : 1) * packed_scale_bytes(f);
}
// groups: of 64 features, that share a stage's activations.
__host__ __device__ constexpr std::uint32_t packed_stage_bytes(packed_format f, int groups,
                                                               int width) {
  return static_cast<std::uint32_t>(groups) * packed_slot_bytes(f, width) +
         packed_stage_tiles(f, width) * static_cast<std::uint32_t>(width) * 128;
}
struct packed_ring_memory {
  std::uint8_t *inputs, *weights;
  // `empty` counts warps: each reads its own part of a tile at its own time. landed: as of a pacer.
  std::uint64_t *full, *empty, *landed;
  std::uint32_t stages;
};
// A band of tile t of a stage. Its group's scales are in a stage of two tiles only if it is the group's first.
template <packed_format kFormat, int kWidth>
__device__ __forceinline__ packed_tile tile_in_stage(const std::uint8_t* slot, std::uint32_t t,
                                                     std::uint32_t band) {
  constexpr std::uint32_t kTiles = packed_stage_tiles(kFormat, kWidth);
  if constexpr (packed_group(kFormat) == 1) {
    const std::uint8_t* tile = slot + t * packed_tile_bytes(kFormat);
    return {tile + band_quants_at(kFormat, 0, band), tile + band_scales_at(kFormat, band), 0};
  } else {
    const std::uint8_t* scales = slot + kTiles * packed_quant_bytes(kFormat);
    return {slot + band_quants_at(kFormat, t, band), scales + band * band_scale_bytes(kFormat), t};
  }
}

// This warpgroup's tiles of a stage.
template <int kGroups, int kWidth, packed_format kFormat>
__device__ __forceinline__ const std::uint8_t* own_slot(const packed_ring_memory& ring,
                                                        std::uint32_t stage) {
  return ring.weights + (stage * kGroups + threadIdx.x / 128) * packed_slot_bytes(kFormat, kWidth);
}

// As consume_packed, by instructions of single warps: over 8 or 16 rows of activations wgmma's own pace, which does not
// depend on their number, would be slower than the memory.
template <int kGroups, int kWidth, packed_format kFormat>
__device__ __forceinline__ void consume_packed_by_warps(float (&sum)[kWidth / 2],
                                                        const packed_ring_memory& ring,
                                                        std::uint32_t steps) {
  constexpr std::uint32_t kTiles = packed_stage_tiles(kFormat, kWidth), kInputBytes = kWidth * 128;
  const std::uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (float& v : sum) v = 0.0f;
  packed_ring_position at;
  for (std::uint32_t done = 0; done < steps; done += kTiles, at.advance(ring.stages)) {
    const std::uint8_t* slot = own_slot<kGroups, kWidth, kFormat>(ring, at.stage);
    const std::uint8_t* inputs = ring.inputs + at.stage * kTiles * kInputBytes;
    barrier_wait(ring.full + at.stage, at.phase);
#pragma unroll
    for (std::uint32_t t = 0; t < kTiles; ++t) {
      if (packed_group(kFormat) == 1 && done + t >= steps) break;
      std::uint32_t values[16];
      unpack_fragment<kFormat>(tile_in_stage<kFormat, kWidth>(slot, t, threadIdx.x % 128 / 32),
                               lane, values);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int rows = 0; rows < kWidth / 8; ++rows) {
          std::uint32_t b[4];
          load_input(inputs + t * kInputBytes + rows * 1024, half * 4, b);
          multiply_warp(sum + 4 * rows, values + 8 * half, b[0], b[1]);
          multiply_warp(sum + 4 * rows, values + 8 * half + 4, b[2], b[3]);
        }
      }
    }
    warp_arrive(ring.empty + at.stage);
  }
}

// sum = `steps` tiles of packed weights; whole groups of them.
template <int kGroups, int kWidth, packed_format kFormat>
__device__ __forceinline__ void consume_packed(float (&sum)[kWidth / 2],
                                               const packed_ring_memory& ring,
                                               std::uint32_t steps) {
  if constexpr (kWidth <= 16) {
    consume_packed_by_warps<kGroups, kWidth, kFormat>(sum, ring, steps);
  } else {
    constexpr std::uint32_t kInputBytes = kWidth * 128,
                            kTurns = packed_group(kFormat) == 4 ? 2 : 1;  // stages of a group
    const std::uint32_t lane = threadIdx.x % 32, band = threadIdx.x % 128 / 32;
    std::uint32_t first[16], second[16];
    std::uint32_t previous = 0;
    packed_ring_position at;
    for (std::uint32_t done = 0; done < steps; done += 2 * kTurns) {
      barrier_wait(ring.full + at.stage, at.phase);
      // Of all tiles of a group: making what registers hold takes as long as unpacking half a tile.
      const lane_scales<kFormat> group(
          tile_in_stage<kFormat, kWidth>(own_slot<kGroups, kWidth, kFormat>(ring, at.stage), 0,
                                         band)
              .scales,
          lane);
#pragma unroll
      for (std::uint32_t turn = 0; turn < kTurns; ++turn, at.advance(ring.stages)) {
        if (turn > 0) barrier_wait(ring.full + at.stage, at.phase);
        const std::uint8_t* slot = own_slot<kGroups, kWidth, kFormat>(ring, at.stage);
        const std::uint64_t input = k_major_tile(ring.inputs + at.stage * 2 * kInputBytes);
        const auto unpack_tile = [&](std::uint32_t t, std::uint32_t(&values)[16])
            __attribute__((always_inline)) {
          const packed_tile tile = tile_in_stage<kFormat, kWidth>(slot, t, band);
          if constexpr (kTurns == 2) {
            unpack_fragment<kFormat>(tile.quants, group, 2 * turn + t, lane, values);
          } else {
            unpack_fragment<kFormat>(tile, lane, values);
          }
        };
        const bool both = kTurns == 2 || done + 1 < steps;
        unpack_tile(0, first);
        wgmma_fence();
        start_tile(sum, first, input, turn > 0 || done > 0);
        wgmma_commit();
        wgmma_wait<1>();  // the tile before: `second`, and its stage, are free
        const bool reads_previous = turn > 0 && !lane_scales<kFormat>::in_registers;
        const auto free_previous = [&] {
          warp_arrive(ring.empty + previous, turn > 0 || done > 0);
        };
        if (!reads_previous) free_previous();
        // An odd last tile is multiplied with zeros behind it: that changes no bit of the sum.
        if (both) {
          unpack_tile(1, second);
        } else {
#pragma unroll
          for (int i = 0; i < 16; ++i) second[i] = 0;
        }
        if (reads_previous) free_previous();
        previous = at.stage;
        wgmma_fence();
        start_tile(sum, second, both ? input + kInputBytes / 16 : input, true);
        wgmma_commit();
        wgmma_wait<1>();  // `first` is free
      }
    }
    wgmma_wait<0>();
    hold(sum);
    warp_arrive(ring.empty + previous);
  }
}

// sum = `steps` tiles of bf16 weights; `empty` counts warpgroups. group: which
// 64 rows of the stage are this warpgroup's.
template <int kWidth, class Ring>
__device__ inline void consume_bf16(float (&sum)[kWidth / 2], Ring& at, const ring_memory& ring,
                                    int group, std::uint32_t steps) {
  std::uint32_t previous = 0;
  for (std::uint32_t s = 0; s < steps; ++s, at.advance()) {
    barrier_wait(ring.full + at.stage, at.phase);
    const std::uint8_t* stage = ring.stages + at.stage * ring.stage_bytes;
    const std::uint64_t a = k_major_tile(stage + group * (64 * 128));
    const std::uint64_t b = k_major_tile(stage + ring.slot_bytes);
    hold(sum);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) multiply_bf16(sum, a + 2 * k, b + 2 * k, s > 0 || k > 0);
    wgmma_commit();
    wgmma_wait<1>();
    if (s > 0 && threadIdx.x % 128 == 0) barrier_arrive(ring.empty + previous);
    previous = at.stage;
  }
  wgmma_wait<0>();
  hold(sum);
  if (threadIdx.x % 128 == 0) barrier_arrive(ring.empty + previous);
}

}  // namespace troupe::gpu::cuda
