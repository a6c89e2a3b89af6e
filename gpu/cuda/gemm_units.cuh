// What a warpgroup does with one unit of a product with few rows, 64 features over some of the reduced dimension, once a
// ring brings it tiles: the same instructions in the same order, and so the same bits, in every kernel that has such units.
//
// Device code only, sm_90a.
#pragma once

#include "gpu/cuda/packed.cuh"
#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda {

__device__ inline void copy_bulk(void* to, const void* from, std::uint32_t bytes,
                                 std::uint64_t* bar, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(bar)), "l"(policy)
      : "memory");
}

// A ring of stages in shared memory: first weights, `slot_bytes`, then activations.
struct ring_memory {
  std::uint8_t* stages;
  std::uint32_t stage_bytes, slot_bytes;
  std::uint64_t *full, *empty;
};

// One tile: 64 columns in four steps.
template <int kCount>
__device__ inline void start_tile(float (&sum)[kCount], const std::uint32_t (&values)[16],
                                  std::uint64_t input, bool accumulate) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const std::uint32_t a[4] = {values[4 * k], values[4 * k + 1], values[4 * k + 2],
                                values[4 * k + 3]};
    multiply_bf16_registers(sum, a, input + 2 * k, accumulate || k > 0);
  }
}

// Four 8 x 8 matrices of the activations' tile, 32 columns from chunk `first` of 8 on: of each the two values that the
// thread's row and columns want (PTX ISA, "ldmatrix"; the swizzle is the copy engine's).
__device__ inline void load_input(const std::uint8_t* tile, std::uint32_t first,
                                  std::uint32_t (&b)[4]) {
  const std::uint32_t row = threadIdx.x % 8, chunk = first + threadIdx.x % 32 / 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(shared_address(tile) + row * 128 + ((chunk ^ row) * 16)));
}
__device__ inline void multiply_warp(float* d, const std::uint32_t* a, std::uint32_t b0,
                                     std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// As consume_packed, by instructions of single warps: over 8 or 16 rows of activations wgmma's own pace, which does not
// depend on their number, would be slower than the memory.
template <int kWidth, packed_format kFormat, class Ring>
__device__ inline void consume_packed_by_warps(float (&sum)[kWidth / 2], Ring& at,
                                               const ring_memory& ring, packed_format format,
                                               std::uint32_t steps) {
  constexpr std::uint32_t kInputBytes = kWidth * 128;
  if constexpr (kFormat != packed_format::none) format = kFormat;
  const std::uint32_t thread = threadIdx.x % 128, tile_bytes = packed_tile_bytes(format);
#pragma unroll
  for (float& v : sum) v = 0.0f;
  for (std::uint32_t done = 0; done < steps; done += 2, at.advance()) {
    std::uint8_t* stage = ring.stages + at.stage * ring.stage_bytes;
    barrier_wait(ring.full + at.stage, at.phase);
#pragma unroll
    for (std::uint32_t t = 0; t < 2; ++t) {
      if (done + t >= steps) break;
      std::uint32_t values[16];
      unpack_fragment(stage + t * tile_bytes, format, thread, values);
      const std::uint8_t* input = stage + ring.slot_bytes + t * kInputBytes;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int rows = 0; rows < kWidth / 8; ++rows) {
          std::uint32_t b[4];
          load_input(input + rows * 1024, half * 4, b);
          multiply_warp(sum + 4 * rows, values + 8 * half, b[0], b[1]);
          multiply_warp(sum + 4 * rows, values + 8 * half + 4, b[2], b[3]);
        }
      }
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty + at.stage);
  }
}

// sum = `steps` tiles of packed weights, two a stage; `empty` counts warps. kFormat none: only `format` knows it.
template <int kWidth, packed_format kFormat, class Ring>
__device__ inline void consume_packed(float (&sum)[kWidth / 2], Ring& at, const ring_memory& ring,
                                      packed_format format, std::uint32_t steps) {
  if constexpr (kWidth <= 16) {
    consume_packed_by_warps<kWidth, kFormat>(sum, at, ring, format, steps);
    return;
  }
  constexpr std::uint32_t kInputBytes = kWidth * 128;
  if constexpr (kFormat != packed_format::none) format = kFormat;
  const std::uint32_t thread = threadIdx.x % 128, tile_bytes = packed_tile_bytes(format);
  const std::uint32_t pairs = (steps + 1) / 2;
  std::uint32_t first[16], second[16];
  std::uint32_t previous = 0;
  for (std::uint32_t s = 0; s < pairs; ++s, at.advance()) {
    const std::uint32_t tiles = min(2u, steps - 2 * s);
    std::uint8_t* stage = ring.stages + at.stage * ring.stage_bytes;
    barrier_wait(ring.full + at.stage, at.phase);
    const std::uint64_t input = k_major_tile(stage + ring.slot_bytes);
    unpack_fragment(stage, format, thread, first);
    wgmma_fence();
    start_tile(sum, first, input, s > 0);
    wgmma_commit();
    wgmma_wait<1>();  // the tile before: `second`, and its stage, are free
    __syncwarp();
    if (s > 0 && threadIdx.x % 32 == 0) barrier_arrive(ring.empty + previous);
    previous = at.stage;
    // An odd last tile is multiplied with zeros behind it: that changes no bit of the sum.
    if (tiles == 2) {
      unpack_fragment(stage + tile_bytes, format, thread, second);
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i) second[i] = 0;
    }
    wgmma_fence();
    start_tile(sum, second, tiles == 2 ? input + kInputBytes / 16 : input, true);
    wgmma_commit();
    wgmma_wait<1>();  // `first` is free
  }
  wgmma_wait<0>();
  hold(sum);
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty + previous);
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
