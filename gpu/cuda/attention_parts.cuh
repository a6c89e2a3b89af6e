// What the kernels of attention share: what they are told, the copy engine's feeding of KV, RoPE of a decoding token, online softmax,
// and the merging of parts.
//
// Device code only, sm_90a.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/rotary.cuh"

namespace troupe::gpu::cuda {

constexpr std::uint32_t copy_rows = 16;  // KV rows a copy moves: they lie in one block

struct attention_parameters {
  attention_arguments a;
  std::uint32_t num_heads, num_kv_heads, group, block_tokens;
  float scale_log2;  // 1 / sqrt(head_dim) in powers of two
  bool rotates;      // with:
  rotary_arguments rotary;
};

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline std::uint32_t pack_half(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&both);
}

// Online softmax of a thread's two rows of queries. Scores lie as the tensor cores leave them: with queries as rows a thread has
// s[4j + {0, 1}] of row lane / 4 and s[4j + {2, 3}] of the row 8 below; transposed, with keys as rows, the even ones of row
// 2 (lane % 4) and the odd ones of the next.
template <bool kTransposed>
struct softmax_state {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // of this thread's keys only, until finish

  __device__ static constexpr int row_of(int i) { return kTransposed ? i % 2 : i / 2 % 2; }
  // Over the lanes that share the rows.
  template <class Operation>
  __device__ static float over_lanes(float x, const Operation& operation) {
#pragma unroll
    for (int lanes = kTransposed ? 4 : 1; lanes < (kTransposed ? 32 : 4); lanes *= 2)
      x = operation(x, __shfl_xor_sync(~0u, x, lanes));
    return x;
  }

  // Turns scores into probabilities relative to the new maximum; rescale[] is what earlier results must be multiplied by.
  template <int kCount>
  __device__ void update(float (&s)[kCount], float scale_log2, float (&rescale)[2]) {
    float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < kCount; ++i) highest[row_of(i)] = fmaxf(highest[row_of(i)], s[i]);
    float offset[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      highest[r] = over_lanes(highest[r], [](float a, float b) { return fmaxf(a, b); });
      const float now = fmaxf(maximum[r], highest[r] * scale_log2);
      offset[r] = now == -INFINITY ? 0.0f : now;  // a row that saw no key yet
      rescale[r] = exp2_fast(maximum[r] - offset[r]);
      maximum[r] = now;
      sum[r] *= rescale[r];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      s[i] = exp2_fast(fmaf(s[i], scale_log2, -offset[row_of(i)]));
      sum[row_of(i)] += s[i];
    }
  }
  __device__ void finish() {
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] = over_lanes(sum[r], [](float a, float b) { return a + b; });
  }
};

// Where 16 bytes of a row are in a tile of `rows` rows under the 128-byte swizzle: columns 8 * chunk to 8 * chunk + 7.
__device__ inline std::uint8_t* swizzled(std::uint8_t* tile, std::uint32_t rows, std::uint32_t row,
                                         std::uint32_t chunk) {
  return tile + chunk / 8 * (rows * 128) + row * 128 + ((chunk % 8) ^ (row % 8)) * 16;
}

// One of a token's K and V to its row of a tile, before warp_arrive there; a warp.
template <int kHead, int kKeys>
__device__ inline void put_row(const __half* from, std::uint32_t row, std::uint8_t* tile) {
  const std::uint32_t c = threadIdx.x % 32;
  if (c < kHead / 8) {
    *reinterpret_cast<uint4*>(swizzled(tile, kKeys, row, c)) =
        reinterpret_cast<const uint4*>(from)[c];
  }
  fence_async_proxy();
}

// In shared memory, behind the ring. Of K's stages, then of V's.
template <int kStages>
struct ring_barriers {
  std::uint64_t full[2 * kStages], empty[2 * kStages];
  std::uint64_t rotated;     // the new token's K and V are in shared memory
  std::uint64_t landed[2];   // all of a tile but those
  std::uint32_t is_last[2];  // of a warpgroup: it merges the parts

  // By one thread, before the block's threads meet. readers: who says that a stage may be filled again.
  __device__ void init(std::uint32_t readers) {
    barrier_init(&rotated, 4 * arrivals_of_warp);
    barrier_init(landed, arrivals_of_warp);
    barrier_init(landed + 1, arrivals_of_warp);
    for (int s = 0; s < 2 * kStages; ++s) {
      barrier_init(full + s, arrivals_of_warp);
      barrier_init(empty + s, readers);
    }
    barrier_init_fence();
  }
};

// KV of earlier steps is there already and is fetched while the kernels before still run. fresh: where the block's other threads
// leave the K and V of a token that is rotated here; it comes to its row once the copy engine has brought the others.
template <class Shape, int kHead, int kKeys, int kStages>
__device__ inline void feed(const CUtensorMap& arena, const attention_parameters& p,
                            const attention_item& item, std::uint32_t kv_head, std::uint32_t tiles,
                            std::uint8_t* ring, const __half* fresh,
                            ring_barriers<kStages>& barriers) {
  const std::uint32_t lane = threadIdx.x % 32;
  const std::uint32_t last_chunk = (item.kv_end - 1) / copy_rows;
  const std::uint32_t k_row = (p.a.layer * 2 * p.num_kv_heads + kv_head) * p.block_tokens;
  const std::uint32_t v_row = k_row + p.num_kv_heads * p.block_tokens;
  ring_position<kStages> at;
  const bool completes = p.rotates && item.kv_end > item.first_new;
  bool waited = false;
  for (std::uint32_t t = 0; t < tiles; ++t, at.advance()) {
    if (!waited && !p.rotates && item.kv_begin + (t + 1) * kKeys > item.first_new) {
      wait_for_previous_kernel();
      waited = true;
    }
    // Chunks past the end repeat the last one: masked, but finite, for 0 * NaN is NaN.
    const std::uint32_t chunk = min((item.kv_begin + t * kKeys) / copy_rows + lane, last_chunk);
    const std::uint32_t token = chunk * copy_rows;
    const std::uint32_t block =
        lane < kKeys / copy_rows ? p.a.block_tables[item.table + token / p.block_tokens] : 0;
#pragma unroll
    for (int value = 0; value < 2; ++value) {
      std::uint64_t* bar = completes && t + 1 == tiles ? barriers.landed + value
                                                       : barriers.full + value * kStages + at.stage;
      std::uint8_t* to =
          ring + (value * kStages + at.stage) * Shape::kv_bytes + lane * copy_rows * 128;
      barrier_wait(barriers.empty + value * kStages + at.stage, at.phase ^ 1);
      warp_expect(bar, Shape::kv_bytes);
      if (lane < kKeys / copy_rows) {
        const std::uint32_t row = (value == 0 ? k_row : v_row) + token % p.block_tokens;
        for (int panel = 0; panel < Shape::panels; ++panel) {
          copy_tile_3d(to + panel * kKeys * 128, &arena, bar, panel * 64, static_cast<int>(row),
                       static_cast<int>(block));
        }
      }
    }
  }
  if (completes) {
    const std::uint32_t last = (tiles - 1) % kStages;
    barrier_wait(&barriers.rotated, 0);
    for (int value = 0; value < 2; ++value) {
      barrier_wait(barriers.landed + value, 0);
      put_row<kHead, kKeys>(fresh + value * kHead,
                            item.position - item.kv_begin - (tiles - 1) * kKeys,
                            ring + (value * kStages + last) * Shape::kv_bytes);
      warp_arrive(barriers.full + value * kStages + last);
    }
  }
  if (!waited) wait_for_previous_kernel();
}

// Packed rows [first_row, + kRows) of the queries, under the swizzle; rows past the end are zero. By 128 threads.
template <int kHead, int kRows>
__device__ inline void load_queries(const attention_parameters& p, const attention_item& item,
                                    std::uint32_t kv_head, std::uint32_t first_row,
                                    std::uint8_t* to) {
  constexpr std::uint32_t chunks = kHead / 8;  // 16 bytes each
  for (std::uint32_t i = threadIdx.x % 128; i < kRows * chunks; i += 128) {
    const std::uint32_t r = i / chunks, c = i % chunks;
    const std::uint32_t token = (first_row + r) / p.group,
                        head = kv_head * p.group + (first_row + r) % p.group;
    uint4 value = make_uint4(0, 0, 0, 0);
    if (token < item.tokens) {
      value = *reinterpret_cast<const uint4*>(
          p.a.queries + (std::size_t{item.row + token} * p.num_heads + head) * kHead + c * 8);
    }
    *reinterpret_cast<uint4*>(swizzled(to, kRows, r, c)) = value;
  }
}

// The same, once the kernel before is complete, from what it left, the product of q, k and v: without a kernel between. By the
// block that reads them the token's K and V to the arena and to `fresh`, [2][kHead].
template <int kHead, int kRows>
__device__ inline void rotate_token(const attention_parameters& p, const attention_item& item,
                                    std::uint32_t kv_head, std::uint8_t* to, __half* fresh,
                                    std::uint64_t* rotated) {
  constexpr std::uint32_t chunks = kHead / 8;
  const rotary_arguments& r = p.rotary;
  const bool stores = item.kv_end > item.first_new;
  const std::uint32_t slot = r.slots[item.row];
  const std::uint32_t heads = p.group + (stores ? 2 : 0);
  const auto head_of = [&](std::uint32_t h) {
    return h < p.group ? kv_head * p.group + h
                       : r.num_heads + (h - p.group) * r.num_kv_heads + kv_head;
  };
  const auto query_place = [&](std::uint32_t h, std::uint32_t c) {
    return swizzled(to, kRows, h, c);
  };
  const auto new_place = [&](std::uint32_t h) {
    return kv_place(r, slot, head_of(h) - r.num_heads);
  };
  if (rotates_eight(r)) {
    static_assert(128 % chunks == 0);  // a thread's values have the same place in every head
    const eight_angles angles(r, item.row, threadIdx.x % chunks * 8);
    wait_for_previous_kernel();
    for (std::uint32_t i = threadIdx.x % 128; i < heads * chunks; i += 128) {
      const std::uint32_t h = i / chunks, c = i % chunks;
      const uint4 value = rotate_eight<8>(r, item.row, head_of(h), c * 8, angles);
      if (h < p.group)
        *reinterpret_cast<uint4*>(query_place(h, c)) = value;
      else {
        *reinterpret_cast<uint4*>(new_place(h) + c * 8) = value;
        *reinterpret_cast<uint4*>(fresh + (h - p.group) * kHead + c * 8) = value;
      }
    }
  } else {
    wait_for_previous_kernel();
    for (std::uint32_t h = threadIdx.x % 128 / 32; h < heads; h += 4) {
      rotate_head(r, item.row, head_of(h), [&](int at, __half value) {
        if (h < p.group)
          reinterpret_cast<__half*>(query_place(h, at / 8))[at % 8] = value;
        else {
          new_place(h)[at] = value;
          fresh[(h - p.group) * kHead + static_cast<std::uint32_t>(at)] = value;
        }
      });
    }
  }
  if (stores) warp_arrive(rotated);
}

// Where the parts of a row of an item are; row: token * group + head of the group.
struct part_places {
  std::size_t first, step;
  __device__ part_places(const attention_parameters& p, const attention_item& item,
                         std::uint32_t kv_head, std::uint32_t row)
      : first(std::size_t{item.partial + row / p.group} * p.num_heads + kv_head * p.group +
              row % p.group),
        step(std::size_t{item.tokens} * p.num_heads) {}
  __device__ std::size_t operator()(std::uint32_t part) const { return first + part * step; }
};
__device__ inline __nv_bfloat16* output_place(const attention_parameters& p,
                                              const attention_item& item, std::uint32_t kv_head,
                                              std::uint32_t row, int head_size) {
  return p.a.output +
         (std::size_t{item.row + row / p.group} * p.num_heads + kv_head * p.group + row % p.group) *
             head_size;
}
__device__ inline void store_merged(__nv_bfloat16* to, const float4& value, float inverse) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(value.x * inverse, value.y * inverse),
                       high = __floats2bfloat162_rn(value.z * inverse, value.w * inverse);
  *reinterpret_cast<uint2*>(to) = make_uint2(*reinterpret_cast<const unsigned*>(&low),
                                             *reinterpret_cast<const unsigned*>(&high));
}
__device__ inline void add_part(float4& value, const float4& x, float weight) {
  value.x = fmaf(x.x, weight, value.x);
  value.y = fmaf(x.y, weight, value.y);
  value.z = fmaf(x.z, weight, value.z);
  value.w = fmaf(x.w, weight, value.w);
}

// By a warp a row: sixteen parts are on their way at a time, and the weights with the first of them.
template <int kHead>
__device__ inline void merge_row(const attention_parameters& p, const attention_item& item,
                                 std::uint32_t kv_head, std::uint32_t row) {
  constexpr std::uint32_t kAtOnce = 16, kLanes = kHead / 4;
  const std::uint32_t lane = threadIdx.x % 32;
  const part_places place(p, item, kv_head, row);
  float2 softmax[2];  // of parts `lane` and lane + 32
#pragma unroll
  for (std::uint32_t i = 0; i < 2; ++i) {
    const std::uint32_t part = lane + 32 * i;
    softmax[i] = part < item.parts ? __ldcg(p.a.partial_softmax + place(part))
                                   : make_float2(-INFINITY, 0.0f);
  }
  float4 x[kAtOnce];
  const auto load = [&](std::uint32_t first) {
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      if (first + i < item.parts && lane < kLanes) {
        x[i] = __ldcg(
            reinterpret_cast<const float4*>(p.a.partial_output + place(first + i) * kHead) + lane);
      }
    }
  };
  load(0);
  float highest = fmaxf(softmax[0].x, softmax[1].x);
#pragma unroll
  for (int s = 16; s > 0; s /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, s));
  softmax[0].x = exp2_fast(softmax[0].x - highest);
  softmax[1].x = exp2_fast(softmax[1].x - highest);
  float sum = 0.0f;
  float4 value{};
  for (std::uint32_t first = 0; first < item.parts; first += kAtOnce) {
    if (first > 0) load(first);
    const float2 mine = first < 32 ? softmax[0] : softmax[1];
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      const int from = static_cast<int>((first + i) % 32);
      const float weight = __shfl_sync(~0u, mine.x, from), part = __shfl_sync(~0u, mine.y, from);
      if (first + i >= item.parts) continue;
      sum = fmaf(part, weight, sum);
      add_part(value, x[i], weight);
    }
  }
  if (lane < kLanes)
    store_merged(output_place(p, item, kv_head, row, kHead) + lane * 4, value, 1.0f / sum);
}

// By eight lanes a row, so that a warp has four rows under way.
template <int kHead>
__device__ inline void merge_rows(const attention_parameters& p, const attention_item& item,
                                  std::uint32_t kv_head, std::uint32_t first, std::uint32_t end) {
  constexpr int kLanes = 8, kVectors = kHead / kLanes / 4;
  const std::uint32_t lane = threadIdx.x % kLanes;
  for (std::uint32_t r0 = first; r0 < end; r0 += 16) {
    const std::uint32_t row = r0 + threadIdx.x % 32 / kLanes * 4 + threadIdx.x % 128 / 32;
    if (row >= end) continue;
    const part_places place(p, item, kv_head, row);
    float highest = -INFINITY;
    for (std::uint32_t i = lane; i < item.parts; i += kLanes)
      highest = fmaxf(highest, __ldcg(p.a.partial_softmax + place(i)).x);
    const std::uint32_t row_lanes = 0xFFu << (threadIdx.x % 32 / kLanes * kLanes);
#pragma unroll
    for (int s = kLanes / 2; s > 0; s /= 2)
      highest = fmaxf(highest, __shfl_xor_sync(row_lanes, highest, s));
    float sum = 0.0f;
    float4 value[kVectors] = {};
#pragma unroll 4
    for (std::uint32_t i = 0; i < item.parts; ++i) {
      const float2 part = __ldcg(p.a.partial_softmax + place(i));
      const float weight = exp2_fast(part.x - highest);
      sum = fmaf(part.y, weight, sum);
      const auto* from =
          reinterpret_cast<const float4*>(p.a.partial_output + place(i) * kHead) + lane;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) add_part(value[v], __ldcg(from + v * kLanes), weight);
    }
    const float inverse = 1.0f / sum;
    __nv_bfloat16* to = output_place(p, item, kv_head, row, kHead) + lane * 4;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) store_merged(to + v * kLanes * 4, value[v], inverse);
  }
}

// The warpgroup that finds itself last merges its rows' parts, in the order of their positions.
template <int kHead>
__device__ inline void merge_parts(const attention_parameters& p, const attention_item& item,
                                   std::uint32_t kv_head, std::uint32_t first_row, int group,
                                   volatile std::uint32_t* is_last) {
  // One thread's fences order what all of them stored, and will load: they meet at barriers (PTX ISA, "Causality order").
  sync_threads(1 + group, 128);
  if (threadIdx.x % 128 == 0) {
    std::uint32_t* counter =
        p.a.counters + (std::size_t{item.counter} * p.num_kv_heads + kv_head) * 2 + group;
    __threadfence();
    const bool last = atomicAdd(counter, 1) == item.parts - 1;
    __threadfence();
    if (last) *counter = 0;
    is_last[group] = last;
  }
  sync_threads(1 + group, 128);
  if (is_last[group] == 0) return;
  const std::uint32_t end = min(first_row + 64, item.tokens * p.group);
  if (end - first_row > 4) {
    merge_rows<kHead>(p, item, kv_head, first_row, end);
  } else if (first_row + threadIdx.x % 128 / 32 < end) {
    merge_row<kHead>(p, item, kv_head, first_row + threadIdx.x % 128 / 32);
  }
}

// attention_thin.cu: items of tile_rows(attention_tile::thin) rows.
result<void> prepare_thin_attention();
result<void> attend_thin(std::uint32_t head_dim, const CUtensorMap& arena, std::uint32_t blocks,
                         const attention_parameters& p, bool early, cudaStream_t stream);

}  // namespace troupe::gpu::cuda
