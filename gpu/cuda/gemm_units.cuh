// What a warpgroup does with one unit of a product with few rows, 64 features over some of the reduced dimension, once a
// ring brings it tiles: the same instructions in the same order, and so the same bits, in every kernel that has such units.
//
// Device code only, sm_90a.
#pragma once

#include "gpu/cuda/packed.cuh"
#include "gpu/cuda/warp_products.cuh"
#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda {

// A ring of stages in shared memory: first weights, `slot_bytes`, then activations.
struct ring_memory {
  std::uint8_t* stages;
  std::uint32_t stage_bytes, slot_bytes;
  std::uint64_t *full, *empty;
};

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
  std::uint64_t *full,
      *empty;  // `empty` counts warps: each reads its own part of a tile at its own time
  std::uint32_t stages;
};
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
  return ring.weights +
         (stage * kGroups + threadIdx.x / 128) * packed_slot_bytes(kFormat, kWidth);
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
      unpack_fragment<kFormat>(tile_in_stage<kFormat, kWidth>(slot, t, threadIdx.x % 128 / 32), lane,
                               values);
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
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty + at.stage);
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
    // Tiles of a turn: an even number, whose scales are kept where they are a group's.
    constexpr std::uint32_t kTiles = packed_group(kFormat) == 4 ? 4 : 2;
    constexpr std::uint32_t kInputBytes = kWidth * 128;
    const std::uint32_t lane = threadIdx.x % 32, band = threadIdx.x % 128 / 32;
    packed_ring_position ahead;  // of what is unpacked
    const auto tile_ahead = [&](std::uint32_t t) __attribute__((always_inline)) {
      return tile_in_stage<kFormat, kWidth>(own_slot<kGroups, kWidth, kFormat>(ring, ahead.stage),
                                            t % 2, band);
    };
    std::uint32_t values[2][16];
    barrier_wait(ring.full, 0);
    lane_scales<kFormat> scales(tile_ahead(0).scales, lane);
    {
      const lane_fragment<kFormat> fragment(tile_ahead(0).quants, scales, 0, lane);
#pragma unroll
      for (int k = 0; k < 4; ++k) fragment.unpack(k, values[0] + 4 * k);
    }
    std::uint32_t stage = 0, previous = 0;
    for (std::uint32_t done = 0; done < steps; done += kTiles) {
#pragma unroll
      for (std::uint32_t t = 0; t < kTiles; ++t) {
        if (kTiles == 2 && t == 1 && done + 1 == steps) break;  // an odd number of tiles
        if (t % 2 == 0) stage = ahead.stage;
        const std::uint64_t input =
            k_major_tile(ring.inputs + (stage * 2 + t % 2) * kInputBytes);
        const auto multiply = [&](int k) __attribute__((always_inline)) {
          const std::uint32_t* v = values[t % 2] + 4 * k;
          const std::uint32_t a[4] = {v[0], v[1], v[2], v[3]};
          multiply_bf16_registers(sum, a, input + 2 * k, done > 0 || t > 0 || k > 0);
        };
        // The next tile is unpacked between this one's products, each of which a warp cannot ask for before the tensor cores take
        // it. Behind the last one this is what shared memory holds, and not used.
        wgmma_fence();
        multiply(0);
        multiply(1);
        wgmma_commit();
        if (t % 2 == 1) {
          ahead.advance(ring.stages);
          if (done + t + 1 < steps) barrier_wait(ring.full + ahead.stage, ahead.phase);
        }
        if (t + 1 == kTiles || packed_group(kFormat) == 1)
          scales = lane_scales<kFormat>(tile_ahead(t + 1).scales, lane);
        const lane_fragment<kFormat> fragment(tile_ahead(t + 1).quants, scales, (t + 1) % kTiles,
                                              lane);
        wgmma_wait<1>();  // the tile before
        if (t % 2 == 0 && (done > 0 || t > 0)) {
          __syncwarp();
          if (lane == 0) barrier_arrive(ring.empty + previous);
        }
        previous = stage;
        std::uint32_t* next = values[(t + 1) % 2];
        fragment.unpack(0, next);
        wgmma_fence();
        multiply(2);
        fragment.unpack(1, next + 4);
        wgmma_fence();
        multiply(3);
        wgmma_commit();
        fragment.unpack(2, next + 8);
        fragment.unpack(3, next + 12);
      }
    }
    wgmma_wait<0>();
    hold(sum);
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
