#include "gpu/cuda/attention.hpp"

#include <cmath>
#include <string>

#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/rotary.cuh"
#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint32_t copy_rows = 16;  // KV rows a copy moves: they lie in one block

constexpr int new_token_barrier = 3;  // its K and V are in shared memory

struct kernel_parameters {
  attention_arguments a;
  std::uint32_t num_heads, num_kv_heads, group, block_tokens;
  float scale_log2;  // 1 / sqrt(head_dim) in powers of two
  bool rotates;      // with:
  rotary_arguments rotary;
};

template <int kHead, int kGroups, int kKeys, int kStages>
struct tile_shape {
  static constexpr int panels = kHead / 64;                     // 64 columns, 128 bytes a row
  static constexpr std::uint32_t query_bytes = 64 * kHead * 2;  // of one warpgroup
  static constexpr std::uint32_t kv_bytes = kKeys * kHead * 2;  // of K or of V
  static constexpr std::uint32_t new_bytes = kGroups == 1 ? 2 * kHead * 2 : 0;  // a token's K and V
  static constexpr std::size_t shared_bytes =
      kGroups * query_bytes + kStages * 2 * kv_bytes + new_bytes + 256;
};

// The warp that feeds two warpgroups comes with a warpgroup of its own, whose registers they take over.
__host__ __device__ constexpr int threads_for(int groups) {
  return groups * 128 + (groups == 1 ? 32 : 128);
}

// sync_threads of those who need not wait for the others.
__device__ inline void arrive_threads(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline std::uint32_t pack_half(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&both);
}

// Online softmax of this thread's two rows: [0] row lane / 4, [1] the row 8 below.
struct softmax_state {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // this thread's columns only, until finish

  // Turns scores into probabilities relative to the new maximum; rescale[] is what earlier results must be multiplied by.
  template <int kCount>
  __device__ void update(float (&s)[kCount], float scale_log2, float (&rescale)[2]) {
    float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < kCount; ++i) highest[i / 2 % 2] = fmaxf(highest[i / 2 % 2], s[i]);
    float offset[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      highest[r] = fmaxf(highest[r], __shfl_xor_sync(~0u, highest[r], 1));
      highest[r] = fmaxf(highest[r], __shfl_xor_sync(~0u, highest[r], 2));
      const float now = fmaxf(maximum[r], highest[r] * scale_log2);
      offset[r] = now == -INFINITY ? 0.0f : now;  // a row that saw no key yet
      rescale[r] = exp2_fast(maximum[r] - offset[r]);
      maximum[r] = now;
      sum[r] *= rescale[r];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      s[i] = exp2_fast(fmaf(s[i], scale_log2, -offset[i / 2 % 2]));
      sum[i / 2 % 2] += s[i];
    }
  }
  __device__ void finish() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }
  }
};

template <int kCount>
__device__ inline void pack_probabilities(const float (&s)[kCount],
                                          std::uint32_t (&p)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) p[i] = pack_half(s[2 * i], s[2 * i + 1]);
}

template <int kHead, int kKeys>
__device__ inline void start_scores(float (&s)[kKeys / 2], const std::uint8_t* queries,
                                    const std::uint8_t* keys) {
#pragma unroll
  for (int k = 0; k < kHead / 16; ++k) {
    const std::uint64_t a = k_major_tile(queries + k / 4 * (64 * 128)) + 2 * (k % 4);
    const std::uint64_t b = k_major_tile(keys + k / 4 * (kKeys * 128)) + 2 * (k % 4);
    multiply_f16(s, a, b, k > 0);
  }
}
template <int kHead, int kKeys>
__device__ inline void start_values(float (&o)[kHead / 2], const std::uint32_t (&p)[kKeys / 4],
                                    const std::uint8_t* values, bool accumulate) {
  const std::uint64_t v = mn_major_tile(values, kKeys * 128);
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    const std::uint32_t a[4] = {p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3]};
    multiply_f16_registers(o, a, v + 128 * k, accumulate || k > 0);
  }
}

// Scores of keys that a row must not see become -inf. `first`: the tile's first key; `last[]`: the rows' last key.
template <int kCount>
__device__ inline void mask_scores(float (&s)[kCount], int first, const int (&last)[2]) {
  const int column = first + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (column + i / 4 * 8 + i % 2 > last[i / 2 % 2]) s[i] = -INFINITY;
  }
}

// Where 16 bytes of a row are in a tile of `rows` rows under the 128-byte swizzle: columns 8 * chunk to 8 * chunk + 7.
__device__ inline std::uint8_t* swizzled(std::uint8_t* tile, std::uint32_t rows, std::uint32_t row,
                                         std::uint32_t chunk) {
  return tile + chunk / 8 * (rows * 128) + row * 128 + ((chunk % 8) ^ (row % 8)) * 16;
}

// One of a token's K and V to its row of a tile; a warp.
template <int kHead, int kKeys>
__device__ inline void put_row(const __half* from, std::uint32_t row, std::uint8_t* tile) {
  const std::uint32_t c = threadIdx.x % 32;
  if (c < kHead / 8) {
    *reinterpret_cast<uint4*>(swizzled(tile, kKeys, row, c)) =
        reinterpret_cast<const uint4*>(from)[c];
  }
  fence_async_proxy();
  __syncwarp();
}

// KV of earlier steps is there already and is fetched while the kernels before still run. fresh: where the block's other threads
// leave the K and V of a token that is rotated here; it comes to its row once the copy engine has brought the others.
template <class Shape, int kHead, int kKeys, int kStages>
__device__ inline void feed(const CUtensorMap& arena, const kernel_parameters& p,
                            const attention_item& item, std::uint32_t kv_head, std::uint32_t tiles,
                            std::uint8_t* ring, const __half* fresh, std::uint64_t* full,
                            std::uint64_t* empty, std::uint64_t* landed) {
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
      std::uint64_t* bar =
          completes && t + 1 == tiles ? landed + value : full + value * kStages + at.stage;
      std::uint8_t* to =
          ring + (value * kStages + at.stage) * Shape::kv_bytes + lane * copy_rows * 128;
      barrier_wait(empty + value * kStages + at.stage, at.phase ^ 1);
      if (lane == 0) barrier_expect(bar, Shape::kv_bytes);
      __syncwarp();
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
    sync_threads(new_token_barrier, 160);
    for (int value = 0; value < 2; ++value) {
      barrier_wait(landed + value, 0);
      put_row<kHead, kKeys>(fresh + value * kHead,
                            item.position - item.kv_begin - (tiles - 1) * kKeys,
                            ring + (value * kStages + last) * Shape::kv_bytes);
      if (lane == 0) barrier_arrive(full + value * kStages + last);
    }
  }
  if (!waited) wait_for_previous_kernel();
}

// Packed rows [64 * group of the warpgroup, + 64) of the queries, under the swizzle; rows past the end are zero.
template <int kHead>
__device__ inline void load_queries(const kernel_parameters& p, const attention_item& item,
                                    std::uint32_t kv_head, std::uint32_t first_row,
                                    std::uint8_t* to) {
  constexpr std::uint32_t chunks = kHead / 8;  // 16 bytes each
  for (std::uint32_t i = threadIdx.x % 128; i < 64 * chunks; i += 128) {
    const std::uint32_t r = i / chunks, c = i % chunks;
    const std::uint32_t token = (first_row + r) / p.group,
                        head = kv_head * p.group + (first_row + r) % p.group;
    uint4 value = make_uint4(0, 0, 0, 0);
    if (token < item.tokens) {
      value = *reinterpret_cast<const uint4*>(
          p.a.queries + (std::size_t{item.row + token} * p.num_heads + head) * kHead + c * 8);
    }
    *reinterpret_cast<uint4*>(swizzled(to, 64, r, c)) = value;
  }
}

// The same from what the product of q, k and v left: without a kernel between. By the block that reads them the token's K and V
// to the arena and to `fresh`, [2][kHead].
template <int kHead>
__device__ inline void rotate_token(const kernel_parameters& p, const attention_item& item,
                                    std::uint32_t kv_head, std::uint8_t* to, __half* fresh) {
  constexpr std::uint32_t chunks = kHead / 8;
  const rotary_arguments& r = p.rotary;
  const bool stores = item.kv_end > item.first_new;
  const std::uint32_t heads = p.group + (stores ? 2 : 0);
  const auto head_of = [&](std::uint32_t h) {
    return h < p.group ? kv_head * p.group + h
                       : r.num_heads + (h - p.group) * r.num_kv_heads + kv_head;
  };
  const auto query_place = [&](std::uint32_t h, std::uint32_t c) { return swizzled(to, 64, h, c); };
  const auto new_place = [&](std::uint32_t h) {
    return kv_place(r, r.slots[item.row], head_of(h) - r.num_heads);
  };
  if (rotates_eight(r)) {
    for (std::uint32_t i = threadIdx.x % 128; i < heads * chunks; i += 128) {
      const std::uint32_t h = i / chunks, c = i % chunks;
      const uint4 value = rotate_eight(r, item.row, head_of(h), c * 8);
      if (h < p.group)
        *reinterpret_cast<uint4*>(query_place(h, c)) = value;
      else {
        *reinterpret_cast<uint4*>(new_place(h) + c * 8) = value;
        *reinterpret_cast<uint4*>(fresh + (h - p.group) * kHead + c * 8) = value;
      }
    }
  } else {
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
  if (stores) arrive_threads(new_token_barrier, 160);  // and go on
}

template <int kHead>
__device__ inline void store_rows(const kernel_parameters& p, const attention_item& item,
                                  std::uint32_t kv_head, std::uint32_t first_row,
                                  const float (&o)[kHead / 2], const softmax_state& softmax) {
  const std::uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::uint32_t row = first_row + threadIdx.x % 128 / 32 * 16 + lane / 4 + r * 8;
    const std::uint32_t token = row / p.group, head = kv_head * p.group + row % p.group;
    if (token >= item.tokens) continue;
    if (item.parts == 1) {
      const float inverse = 1.0f / softmax.sum[r];
      __nv_bfloat16* to =
          p.a.output + (std::size_t{item.row + token} * p.num_heads + head) * kHead + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < kHead / 8; ++j) {
        *reinterpret_cast<__nv_bfloat162*>(to + 8 * j) =
            __floats2bfloat162_rn(o[4 * j + 2 * r] * inverse, o[4 * j + 2 * r + 1] * inverse);
      }
    } else {
      const std::size_t at =
          std::size_t{item.partial + item.part * item.tokens + token} * p.num_heads + head;
      float* to = p.a.partial_output + at * kHead + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < kHead / 8; ++j) {
        *reinterpret_cast<float2*>(to + 8 * j) =
            make_float2(o[4 * j + 2 * r], o[4 * j + 2 * r + 1]);
      }
      if (lane % 4 == 0) p.a.partial_softmax[at] = make_float2(softmax.maximum[r], softmax.sum[r]);
    }
  }
}

// Where the parts of a row of an item are; row: token * group + head of the group.
struct part_places {
  std::size_t first, step;
  __device__ part_places(const kernel_parameters& p, const attention_item& item,
                         std::uint32_t kv_head, std::uint32_t row)
      : first(std::size_t{item.partial + row / p.group} * p.num_heads + kv_head * p.group +
              row % p.group),
        step(std::size_t{item.tokens} * p.num_heads) {}
  __device__ std::size_t operator()(std::uint32_t part) const { return first + part * step; }
};
__device__ inline __nv_bfloat16* output_place(const kernel_parameters& p,
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

// By a warp a row: eight parts are on their way at a time, and the weights with the first of them.
template <int kHead>
__device__ inline void merge_row(const kernel_parameters& p, const attention_item& item,
                                 std::uint32_t kv_head, std::uint32_t row) {
  constexpr std::uint32_t kAtOnce = 8, kLanes = kHead / 4;
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
__device__ inline void merge_rows(const kernel_parameters& p, const attention_item& item,
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
__device__ inline void merge_parts(const kernel_parameters& p, const attention_item& item,
                                   std::uint32_t kv_head, std::uint32_t first_row, int group,
                                   volatile std::uint32_t* is_last) {
  __threadfence();
  sync_threads(1 + group, 128);
  if (threadIdx.x % 128 == 0) {
    std::uint32_t* counter =
        p.a.counters + (std::size_t{item.counter} * p.num_kv_heads + kv_head) * 2 + group;
    const bool last = atomicAdd(counter, 1) == item.parts - 1;
    if (last) *counter = 0;
    is_last[group] = last;
  }
  sync_threads(1 + group, 128);
  if (is_last[group] == 0) return;
  __threadfence();
  const std::uint32_t end = min(first_row + 64, item.tokens * p.group);
  if (end - first_row > 4) {
    merge_rows<kHead>(p, item, kv_head, first_row, end);
  } else if (first_row + threadIdx.x % 128 / 32 < end) {
    merge_row<kHead>(p, item, kv_head, first_row + threadIdx.x % 128 / 32);
  }
}

template <int kHead, int kGroups, int kKeys, int kStages>
__global__ void __launch_bounds__(threads_for(kGroups), 1)
    attention_kernel(const __grid_constant__ CUtensorMap arena,
                     const __grid_constant__ kernel_parameters p) {
  using shape = tile_shape<kHead, kGroups, kKeys, kStages>;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t* queries = shared;
  std::uint8_t* ring = queries + kGroups * shape::query_bytes;  // K stages, then V stages
  auto* fresh = reinterpret_cast<__half*>(ring + 2 * kStages * shape::kv_bytes);
  auto* full =
      reinterpret_cast<std::uint64_t*>(ring + 2 * kStages * shape::kv_bytes + shape::new_bytes);
  auto* empty = full + 2 * kStages;
  auto* landed = empty + 2 * kStages;
  auto* is_last = reinterpret_cast<std::uint32_t*>(landed + 2);
  if (threadIdx.x == 0) {
    barrier_init(landed, 1);
    barrier_init(landed + 1, 1);
    for (int s = 0; s < 2 * kStages; ++s) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, kGroups);
    }
    barrier_init_fence();
  }
  __syncthreads();
  let_next_kernel_start();

  // The work list is of this step, not of the kernel before: it may be read at once.
  const std::uint32_t index = blockIdx.x / p.num_kv_heads, kv_head = blockIdx.x % p.num_kv_heads;
  // Blocks without work need not wait, for others of the kernel do, and the next kernel's want the place.
  if (index >= *p.a.num_items) return;
  const attention_item item = p.a.items[index];
  const std::uint32_t tiles = (item.kv_end - item.kv_begin + kKeys - 1) / kKeys;
  if (threadIdx.x >= kGroups * 128) {
    if constexpr (kGroups == 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x < kGroups * 128 + 32) {
      feed<shape, kHead, kKeys, kStages>(arena, p, item, kv_head, tiles, ring, fresh, full, empty,
                                         landed);
    }
    return;
  }
  if constexpr (kGroups == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");

  const int group = static_cast<int>(threadIdx.x) / 128;
  const bool leader = threadIdx.x % 128 == 0;
  const std::uint32_t first_row = group * 64;
  std::uint8_t* my_queries = queries + group * shape::query_bytes;
  if (kGroups == 1 && p.rotates) {
    for (std::uint32_t i = threadIdx.x; i < shape::query_bytes / 16; i += 128)
      reinterpret_cast<uint4*>(my_queries)[i] = make_uint4(0, 0, 0, 0);
    sync_threads(1 + group, 128);
    wait_for_previous_kernel();
    rotate_token<kHead>(p, item, kv_head, my_queries, fresh);
  } else {
    wait_for_previous_kernel();
    load_queries<kHead>(p, item, kv_head, first_row, my_queries);
  }
  fence_async_proxy();
  sync_threads(1 + group, 128);

  const std::uint32_t my_row = first_row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  int last[2];  // keys after it are masked
  for (int r = 0; r < 2; ++r) {
    last[r] = min(static_cast<int>(item.position + (my_row + 8 * r) / p.group),
                  static_cast<int>(item.kv_end) - 1);
  }
  // A decode step's tile has few rows. The others' probabilities are zero, and a warp without any of those few does not work
  // them out: the card's power is the products' limit.
  const std::uint32_t rows = item.tokens * p.group;
  const bool live = first_row + threadIdx.x % 128 / 32 * 16 < rows;
  const std::uint32_t keep[2] = {my_row < rows ? ~0u : 0u, my_row + 8 < rows ? ~0u : 0u};
  // The lowest row of the warpgroup sees this many keys; tiles before it need no mask.
  const std::uint32_t unmasked = item.position + first_row / p.group + 1;

  float scores[kKeys / 2], output[kHead / 2], rescale[2] = {1.0f, 1.0f};
  std::uint32_t probabilities[kKeys / 4];
  softmax_state softmax;
  ring_position<kStages> at;
  const auto finish_scores = [&](std::uint32_t t) {
    hold(scores);
    if (kGroups == 1 && !live) return;
    const std::uint32_t first = item.kv_begin + t * kKeys;
    if (first + kKeys > min(unmasked, item.kv_end))
      mask_scores(scores, static_cast<int>(first), last);
    softmax.update(scores, p.scale_log2, rescale);
  };

  barrier_wait(full + at.stage, at.phase);
  wgmma_fence();
  start_scores<kHead, kKeys>(scores, my_queries, ring + at.stage * shape::kv_bytes);
  wgmma_commit();
  wgmma_wait<0>();
  if (leader) barrier_arrive(empty + at.stage);
  const auto pack = [&] {
    pack_probabilities(scores, probabilities);
    if constexpr (kGroups == 1) {
#pragma unroll
      for (int i = 0; i < kKeys / 4; ++i)
        probabilities[i] = live ? probabilities[i] & keep[i % 2] : 0;
    }
  };
  finish_scores(0);
  pack();

  ring_position<kStages> values = at;
  at.advance();
  // The scores of tile t and the values of tile t - 1 run together; the softmax of t hides behind the latter.
  for (std::uint32_t t = 1; t < tiles; ++t, at.advance(), values.advance()) {
    barrier_wait(full + at.stage, at.phase);
    hold(scores);
    hold(output);
    wgmma_fence();
    start_scores<kHead, kKeys>(scores, my_queries, ring + at.stage * shape::kv_bytes);
    wgmma_commit();
    barrier_wait(full + kStages + values.stage, values.phase);
    start_values<kHead, kKeys>(output, probabilities,
                               ring + (kStages + values.stage) * shape::kv_bytes, t > 1);
    wgmma_commit();
    wgmma_wait<1>();
    if (leader) barrier_arrive(empty + at.stage);
    finish_scores(t);
    wgmma_wait<0>();
    hold(output);
    if (leader) barrier_arrive(empty + kStages + values.stage);
#pragma unroll
    for (int i = 0; i < kHead / 2; ++i) output[i] *= rescale[i / 2 % 2];
    pack();
  }
  barrier_wait(full + kStages + values.stage, values.phase);
  wgmma_fence();
  start_values<kHead, kKeys>(output, probabilities,
                             ring + (kStages + values.stage) * shape::kv_bytes, tiles > 1);
  wgmma_commit();
  wgmma_wait<0>();
  hold(output);
  softmax.finish();
  store_rows<kHead>(p, item, kv_head, first_row, output, softmax);
  if (item.parts > 1 && first_row < item.tokens * p.group) {
    merge_parts<kHead>(p, item, kv_head, first_row, group, is_last);
  }
}

template <int kHead, int kGroups, int kKeys, int kStages>
result<void> run(const CUtensorMap& arena, std::uint32_t blocks, const kernel_parameters& p,
                 bool early, cudaStream_t stream) {
  using shape = tile_shape<kHead, kGroups, kKeys, kStages>;
  return launch("attend", attention_kernel<kHead, kGroups, kKeys, kStages>,
                {dim3(blocks), dim3(threads_for(kGroups)), shape::shared_bytes}, stream, early,
                arena, p);
}

template <int kHead, int kGroups, int kKeys, int kStages>
result<void> prepare() {
  return allow_shared_memory(attention_kernel<kHead, kGroups, kKeys, kStages>,
                             tile_shape<kHead, kGroups, kKeys, kStages>::shared_bytes,
                             "preparing attend");
}

}  // namespace

result<void> prepare_attention() {
  TROUPE_CHECK(prepare<64, 1, 64, 3>());
  TROUPE_CHECK(prepare<64, 2, 128, 2>());
  TROUPE_CHECK(prepare<128, 1, 64, 3>());
  return prepare<128, 2, 128, 2>();
}

result<void> attend(const attention_shape& shape, const kv_layout& layout, const CUtensorMap& arena,
                    attention_tile tile, std::uint32_t grid_items,
                    const attention_arguments& arguments, bool early, cudaStream_t stream) {
  if (layout.dtype != kv_dtype::f16 || layout.block_tokens % copy_rows != 0 ||
      (shape.head_dim != 64 && shape.head_dim != 128)) {
    return fail(
        ec::unsupported,
        "CUDA attention needs f16 KV, blocks of a multiple of 16 tokens and heads of 64 or 128; "
        "this model has heads of " +
            std::to_string(shape.head_dim) + ", blocks of " + std::to_string(layout.block_tokens));
  }
  const kernel_parameters p{
      arguments,
      shape.num_heads,
      shape.num_kv_heads,
      shape.group(),
      layout.block_tokens,
      static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(shape.head_dim))),
      arguments.rotary != nullptr,
      arguments.rotary != nullptr ? *arguments.rotary : rotary_arguments{}};
  TROUPE_ASSERT(!p.rotates || tile == attention_tile::narrow);
  const std::uint32_t blocks = grid_items * shape.num_kv_heads;
  if (shape.head_dim == 64) {
    return tile == attention_tile::wide ? run<64, 2, 128, 2>(arena, blocks, p, early, stream)
                                        : run<64, 1, 64, 3>(arena, blocks, p, early, stream);
  }
  return tile == attention_tile::wide ? run<128, 2, 128, 2>(arena, blocks, p, early, stream)
                                      : run<128, 1, 64, 3>(arena, blocks, p, early, stream);
}

}  // namespace troupe::gpu::cuda
