#include "gpu/cuda/attention.hpp"

#include <cmath>
#include <string>

#include "gpu/cuda/attention_parts.cuh"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda {
namespace {

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

template <int kHead>
__device__ inline void store_rows(const attention_parameters& p, const attention_item& item,
                                  std::uint32_t kv_head, std::uint32_t first_row,
                                  const float (&o)[kHead / 2],
                                  const softmax_state<false>& softmax) {
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

template <int kHead, int kGroups, int kKeys, int kStages>
__global__ void __launch_bounds__(threads_for(kGroups), 1)
    attention_kernel(const __grid_constant__ CUtensorMap arena,
                     const __grid_constant__ attention_parameters p) {
  using shape = tile_shape<kHead, kGroups, kKeys, kStages>;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t* queries = shared;
  std::uint8_t* ring = queries + kGroups * shape::query_bytes;  // K stages, then V stages
  auto* fresh = reinterpret_cast<__half*>(ring + 2 * kStages * shape::kv_bytes);
  auto& barriers = *reinterpret_cast<ring_barriers<kStages>*>(ring + 2 * kStages * shape::kv_bytes +
                                                              shape::new_bytes);
  if (threadIdx.x == 0) barriers.init(kGroups);
  __syncthreads();
  let_next_kernel_start();

  // The work list is of this step, not of the kernel before: it may be read at once.
  const std::uint32_t index = blockIdx.x / p.num_kv_heads, kv_head = blockIdx.x % p.num_kv_heads;
  // Blocks without work need not wait, for others of the kernel do, and the next kernel's want the place.
  if (index >= *p.a.num_items) return;
  const attention_item item = p.a.items[index];
  const std::uint32_t tiles = (item.kv_end - item.kv_begin + kKeys - 1) / kKeys;
  if (threadIdx.x >= kGroups * 128) {
    if constexpr (kGroups == 2) give_registers<24>();
    if (threadIdx.x < kGroups * 128 + 32) {
      feed<shape, kHead, kKeys, kStages>(arena, p, item, kv_head, tiles, ring, fresh, barriers);
    }
    return;
  }
  if constexpr (kGroups == 2) take_registers<240>();

  const int group = static_cast<int>(threadIdx.x) / 128;
  const bool leader = threadIdx.x % 128 == 0;
  const std::uint32_t first_row = group * 64;
  std::uint8_t* my_queries = queries + group * shape::query_bytes;
  if (kGroups == 1 && p.rotates) {
    for (std::uint32_t i = threadIdx.x; i < shape::query_bytes / 16; i += 128)
      reinterpret_cast<uint4*>(my_queries)[i] = make_uint4(0, 0, 0, 0);
    sync_threads(1 + group, 128);
    rotate_token<kHead, 64>(p, item, kv_head, my_queries, fresh, &barriers.rotated);
  } else {
    wait_for_previous_kernel();
    load_queries<kHead, 64>(p, item, kv_head, first_row, my_queries);
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
  softmax_state<false> softmax;
  ring_position<kStages> at;
  const auto finish_scores = [&](std::uint32_t t) {
    hold(scores);
    if (kGroups == 1 && !live) return;
    const std::uint32_t first = item.kv_begin + t * kKeys;
    if (first + kKeys > min(unmasked, item.kv_end))
      mask_scores(scores, static_cast<int>(first), last);
    softmax.update(scores, p.scale_log2, rescale);
  };

  barrier_wait(barriers.full + at.stage, at.phase);
  wgmma_fence();
  start_scores<kHead, kKeys>(scores, my_queries, ring + at.stage * shape::kv_bytes);
  wgmma_commit();
  wgmma_wait<0>();
  if (leader) barrier_arrive(barriers.empty + at.stage);
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
    barrier_wait(barriers.full + at.stage, at.phase);
    hold(scores);
    hold(output);
    wgmma_fence();
    start_scores<kHead, kKeys>(scores, my_queries, ring + at.stage * shape::kv_bytes);
    wgmma_commit();
    barrier_wait(barriers.full + kStages + values.stage, values.phase);
    start_values<kHead, kKeys>(output, probabilities,
                               ring + (kStages + values.stage) * shape::kv_bytes, t > 1);
    wgmma_commit();
    wgmma_wait<1>();
    if (leader) barrier_arrive(barriers.empty + at.stage);
    finish_scores(t);
    wgmma_wait<0>();
    hold(output);
    if (leader) barrier_arrive(barriers.empty + kStages + values.stage);
#pragma unroll
    for (int i = 0; i < kHead / 2; ++i) output[i] *= rescale[i / 2 % 2];
    pack();
  }
  barrier_wait(barriers.full + kStages + values.stage, values.phase);
  wgmma_fence();
  start_values<kHead, kKeys>(output, probabilities,
                             ring + (kStages + values.stage) * shape::kv_bytes, tiles > 1);
  wgmma_commit();
  wgmma_wait<0>();
  hold(output);
  softmax.finish();
  store_rows<kHead>(p, item, kv_head, first_row, output, softmax);
  if (item.parts > 1 && first_row < item.tokens * p.group) {
    merge_parts<kHead>(p, item, kv_head, first_row, group, barriers.is_last);
  }
}

template <int kHead, int kGroups, int kKeys, int kStages>
result<void> run(const CUtensorMap& arena, std::uint32_t blocks, const attention_parameters& p,
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
  TROUPE_CHECK(prepare_thin_attention());
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
  const attention_parameters p{
      arguments,
      shape.num_heads,
      shape.num_kv_heads,
      shape.group(),
      layout.block_tokens,
      static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(shape.head_dim))),
      arguments.rotary != nullptr,
      arguments.rotary != nullptr ? *arguments.rotary : rotary_arguments{}};
  TROUPE_ASSERT(!p.rotates || tile != attention_tile::wide);
  const std::uint32_t blocks = grid_items * shape.num_kv_heads;
  if (tile == attention_tile::thin)
    return attend_thin(shape.head_dim, arena, blocks, p, early, stream);
  if (shape.head_dim == 64) {
    return tile == attention_tile::wide ? run<64, 2, 128, 2>(arena, blocks, p, early, stream)
                                        : run<64, 1, 64, 3>(arena, blocks, p, early, stream);
  }
  return tile == attention_tile::wide ? run<128, 2, 128, 2>(arena, blocks, p, early, stream)
                                      : run<128, 1, 64, 3>(arena, blocks, p, early, stream);
}

}  // namespace troupe::gpu::cuda
