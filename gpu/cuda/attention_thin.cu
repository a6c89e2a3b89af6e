#include "gpu/cuda/attention_parts.cuh"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/warp_products.cuh"

namespace troupe::gpu::cuda {
namespace {

constexpr int rows = tile_rows(attention_tile::thin), keys = tile_keys(attention_tile::thin);
constexpr int warps = 4, keys_a_warp = keys / warps, stages = 3;
constexpr int fed_threads = warps * 32 + 32;  // with the warp that feeds

template <int kHead>
struct tile_shape {
  static constexpr int panels = kHead / 64;  // 64 columns, 128 bytes a row
  static constexpr std::uint32_t kv_bytes = keys * kHead * 2, query_bytes = rows * kHead * 2,
                                 new_bytes = 2 * kHead * 2;  // a token's K and V
  static constexpr std::size_t shared_bytes = stages * 2 * kv_bytes + query_bytes + new_bytes + 256;
  // The warps' results meet in the ring. Rows a little apart: the lanes of a store have different banks.
  static constexpr std::uint32_t result_row = kHead + 4;
  static_assert(warps * rows * (result_row + 2) * sizeof(float) <= stages * 2 * kv_bytes);
};

// What a warp makes of its keys: transposed, keys or the head's columns as the tensor cores' 16 rows and queries as their 8
// columns, of which a decode step with 4 heads a group wastes half and not 60 of 64.
template <int kHead>
struct warp_results {
  std::uint32_t queries[kHead / 8];
  float output[kHead / 16][4] = {};
  softmax_state<true> softmax;

  __device__ void load(std::uint8_t* tile) {
    const std::uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kHead / 32; ++i) {
      std::uint32_t four[4];
      load_matrices(shared_address(swizzled(tile, rows, lane % 8, 4 * i + lane / 8)), four);
#pragma unroll
      for (int k = 0; k < 4; ++k) queries[4 * i + k] = four[k];
    }
  }
  // Of keys lane / 4 and 8 further, queries 2 (lane % 4) and the next. Two sums, so that a product need not wait for the one before.
  __device__ void multiply_keys(std::uint8_t* tile, std::uint32_t first_key, float (&s)[4]) const {
    const std::uint32_t lane = threadIdx.x % 32;
    float sums[2][4] = {};
#pragma unroll
    for (int k = 0; k < kHead / 16; ++k) {
      std::uint32_t a[4];
      load_matrices(shared_address(swizzled(tile, keys, first_key + lane % 16, 2 * k + lane / 16)),
                    a);
      multiply_warp_f16(sums[k % 2], a, queries[2 * k], queries[2 * k + 1]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = sums[0][i] + sums[1][i];
  }
  __device__ void rescale(const float (&by)[2]) {
    // After a few tiles maxima seldom grow.
    if (!__any_sync(~0u, by[0] != 1.0f || by[1] != 1.0f)) return;
#pragma unroll
    for (int j = 0; j < kHead / 16; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) output[j][i] *= by[i % 2];
    }
  }
  __device__ void multiply_values(std::uint8_t* tile, std::uint32_t first_key, const float (&p)[4],
                                  std::uint32_t keep) {
    const std::uint32_t lane = threadIdx.x % 32,
                        low = transpose_matrix(pack_half(p[0], p[1]) & keep),
                        high = transpose_matrix(pack_half(p[2], p[3]) & keep);
#pragma unroll
    for (int j = 0; j < kHead / 16; ++j) {
      std::uint32_t a[4];
      load_transposed(shared_address(swizzled(tile, keys, first_key + lane % 8 + lane / 16 * 8,
                                              2 * j + lane / 8 % 2)),
                      a);
      multiply_warp_f16(output[j], a, low, high);
    }
  }
  // To this warp's [rows][shape::result_row] and its maxima and sums.
  template <class Shape>
  __device__ void leave(float* to, float2* state, std::uint32_t used) const {
    const std::uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const std::uint32_t row = lane % 4 * 2 + c;
      if (row >= used) continue;
#pragma unroll
      for (int j = 0; j < kHead / 16; ++j) {
        to[row * Shape::result_row + 16 * j + lane / 4] = output[j][c];
        to[row * Shape::result_row + 16 * j + lane / 4 + 8] = output[j][c + 2];
      }
      if (lane < 4) state[row] = make_float2(softmax.maximum[c], softmax.sum[c]);
    }
  }
};

// The warps' results together, a thread four columns of a row: the answer, or an item's part of it.
template <int kHead, class Shape>
__device__ inline void store_rows(const attention_parameters& p, const attention_item& item,
                                  std::uint32_t kv_head, std::uint32_t used, const float* results,
                                  const float2* states) {
  for (std::uint32_t i = threadIdx.x; i < used * (kHead / 4); i += warps * 32) {
    const std::uint32_t row = i / (kHead / 4), column = i % (kHead / 4) * 4;
    float2 state[warps];
    float highest = -INFINITY;
#pragma unroll
    for (int w = 0; w < warps; ++w) {
      state[w] = states[w * rows + row];
      highest = fmaxf(highest, state[w].x);
    }
    const float offset = highest == -INFINITY ? 0.0f : highest;
    float sum = 0.0f;
    float4 value{};
#pragma unroll
    for (int w = 0; w < warps; ++w) {
      const float weight = exp2_fast(state[w].x - offset);
      sum = fmaf(state[w].y, weight, sum);
      add_part(
          value,
          *reinterpret_cast<const float4*>(results + (w * rows + row) * Shape::result_row + column),
          weight);
    }
    if (item.parts == 1) {
      store_merged(output_place(p, item, kv_head, row, kHead) + column, value, 1.0f / sum);
      continue;
    }
    const std::size_t at = part_places(p, item, kv_head, row)(item.part);
    *reinterpret_cast<float4*>(p.a.partial_output + at * kHead + column) = value;
    if (column == 0) p.a.partial_softmax[at] = make_float2(highest, sum);
  }
}

template <int kHead>
__global__ void __launch_bounds__(fed_threads, 2)
    thin_kernel(const __grid_constant__ CUtensorMap arena,
                const __grid_constant__ attention_parameters p) {
  using shape = tile_shape<kHead>;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t* ring = shared;  // K stages, then V stages
  std::uint8_t* queries = ring + 2 * stages * shape::kv_bytes;
  auto* fresh = reinterpret_cast<__half*>(queries + shape::query_bytes);
  auto& barriers =
      *reinterpret_cast<ring_barriers<stages>*>(queries + shape::query_bytes + shape::new_bytes);
  if (threadIdx.x == 0) barriers.init(warps * arrivals_of_warp);
  __syncthreads();
  let_next_kernel_start();

  const std::uint32_t index = blockIdx.x / p.num_kv_heads, kv_head = blockIdx.x % p.num_kv_heads;
  if (index >= *p.a.num_items) return;
  const attention_item item = p.a.items[index];
  const std::uint32_t tiles = (item.kv_end - item.kv_begin + keys - 1) / keys;
  const std::uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == warps) {
    feed<shape, kHead, keys, stages>(arena, p, item, kv_head, tiles, ring, fresh, barriers);
    return;
  }

  const std::uint32_t used = item.tokens * p.group;
  if (p.rotates) {
    for (std::uint32_t i = threadIdx.x; i < shape::query_bytes / 16; i += warps * 32)
      reinterpret_cast<uint4*>(queries)[i] = make_uint4(0, 0, 0, 0);
    sync_threads(1, warps * 32);
    rotate_token<kHead, rows>(p, item, kv_head, queries, fresh, &barriers.rotated);
  } else {
    wait_for_previous_kernel();
    load_queries<kHead, rows>(p, item, kv_head, 0, queries);
  }
  sync_threads(1, warps * 32);

  warp_results<kHead> results;
  results.load(queries);
  int last[2];  // keys after it are masked
  std::uint32_t keep = 0;
#pragma unroll
  for (std::uint32_t c = 0; c < 2; ++c) {
    const std::uint32_t row = lane % 4 * 2 + c;
    last[c] = static_cast<int>(min(item.position + row / p.group, item.kv_end - 1));
    if (row < used) keep |= 0xFFFFu << (16 * c);
  }
  const std::uint32_t unmasked = min(item.position + 1, item.kv_end);
  const std::uint32_t first_key = warp * keys_a_warp;
  ring_position<stages> at;
  for (std::uint32_t t = 0; t < tiles; ++t, at.advance()) {
    float scores[4], rescale[2];
    barrier_wait(barriers.full + at.stage, at.phase);
    results.multiply_keys(ring + at.stage * shape::kv_bytes, first_key, scores);
    warp_arrive(barriers.empty + at.stage);
    const std::uint32_t first = item.kv_begin + t * keys + first_key;
    if (first + keys_a_warp > unmasked) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (static_cast<int>(first + lane / 4) + i / 2 * 8 > last[i % 2]) scores[i] = -INFINITY;
      }
    }
    results.softmax.update(scores, p.scale_log2, rescale);
    results.rescale(rescale);
    barrier_wait(barriers.full + stages + at.stage, at.phase);
    results.multiply_values(ring + (stages + at.stage) * shape::kv_bytes, first_key, scores, keep);
    warp_arrive(barriers.empty + stages + at.stage);
  }
  results.softmax.finish();

  auto* shared_results = reinterpret_cast<float*>(ring);
  auto* states =
      reinterpret_cast<float2*>(shared_results + std::size_t{warps} * rows * shape::result_row);
  sync_threads(1, warps * 32);  // all have read the ring
  results.template leave<shape>(shared_results + std::size_t{warp} * rows * shape::result_row,
                                states + std::size_t{warp} * rows, used);
  sync_threads(1, warps * 32);
  store_rows<kHead, shape>(p, item, kv_head, used, shared_results, states);
  if (item.parts > 1) merge_parts<kHead>(p, item, kv_head, 0, 0, barriers.is_last);
}

template <int kHead>
result<void> prepare() {
  return allow_shared_memory(thin_kernel<kHead>, tile_shape<kHead>::shared_bytes,
                             "preparing attend");
}
template <int kHead>
result<void> run(const CUtensorMap& arena, std::uint32_t blocks, const attention_parameters& p,
                 bool early, cudaStream_t stream) {
  return launch("attend", thin_kernel<kHead>,
                {dim3(blocks), dim3(fed_threads), tile_shape<kHead>::shared_bytes}, stream, early,
                arena, p);
}

}  // namespace

result<void> prepare_thin_attention() {
  TROUPE_CHECK(prepare<64>());
  return prepare<128>();
}

result<void> attend_thin(std::uint32_t head_dim, const CUtensorMap& arena, std::uint32_t blocks,
                         const attention_parameters& p, bool early, cudaStream_t stream) {
  return head_dim == 64 ? run<64>(arena, blocks, p, early, stream)
                        : run<128>(arena, blocks, p, early, stream);
}

}  // namespace troupe::gpu::cuda
