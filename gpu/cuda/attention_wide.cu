// Prefill: items of up to 128 rows by two warpgroups of a block, none of them a part of others.
//
// Blocks are in pairs, clusters, whose items see the same keys but for the last ones, and each copies half of a tile into both blocks'
// memory: by tiles of 64 KiB for each block alone, L2 had to give 5 TB/s, which was its limit. The warpgroups take the tensor cores in
// turns (Shah et al., "FlashAttention-3", 2024, section 3.1).
#include "gpu/cuda/attention_rows.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr int groups = 2, keys = 128, stages = 3;
constexpr std::uint32_t pair_blocks = 2;
constexpr std::uint32_t threads =
    groups * 128 + 128;          // and a warpgroup that feeds, whose registers they take over
constexpr int turn_barrier = 4;  // of the first warpgroup; the second's is the next

template <int kHead>
struct tile_shape {
  static constexpr int panels = kHead / 64;                     // 64 columns, 128 bytes a row
  static constexpr std::uint32_t query_bytes = 64 * kHead * 2;  // of one warpgroup
  static constexpr std::uint32_t kv_bytes = keys * kHead * 2;   // of K or of V
  static constexpr std::size_t shared_bytes = groups * query_bytes + stages * 2 * kv_bytes + 256;
};

struct wide_barriers : ring_barriers<stages> {
  float scratch[groups];
};
static_assert(sizeof(wide_barriers) <= 256);

// A block's item of a turn. Long ones are first, and every second turn goes the other way round, so that all have as much to do.
struct wide_item {
  attention_item item;
  std::uint32_t kv_head, tiles;
  bool there = false;
  kv_share share;
  std::uint32_t kv_end;  // of what is copied: both items' where they share it

  __device__ wide_item(const attention_parameters& p, std::uint32_t turn) {
    const std::uint32_t clusters = gridDim.x / pair_blocks, own = blockIdx.x / pair_blocks,
                        pair = turn * clusters + (turn % 2 == 0 ? own : clusters - 1 - own),
                        first = pair / p.num_kv_heads * pair_blocks, count = *p.a.num_items,
                        rank = blockIdx.x % pair_blocks;
    kv_head = pair % p.num_kv_heads;
    if (first >= count) return;
    there = true;
    item = p.a.items[min(first + rank, count - 1)];
    if (first + rank >= count) item.tokens = 0;  // helps the other
    const attention_item& other = p.a.items[min(first + 1 - rank, count - 1)];
    const bool same = item.table == other.table && item.kv_begin == other.kv_begin;
    constexpr std::uint32_t copies = keys / copy_rows;
    share = same ? kv_share{rank * (copies / pair_blocks), copies / pair_blocks, true}
                 : kv_share{0, copies, false};
    kv_end = same ? max(item.kv_end, other.kv_end) : item.kv_end;
    // As many for both, so that their rings are at the same stage.
    tiles = (max(item.kv_end - item.kv_begin, other.kv_end - other.kv_begin) + keys - 1) / keys;
  }
};

// A thread's part of the queries of its warpgroup, on the way from memory to the tile.
template <int kHead>
struct query_registers {
  static constexpr std::uint32_t chunks = kHead / 8, count = 64 * chunks / 128;
  uint4 values[count];
  __device__ void load(const attention_parameters& p, const wide_item& w, std::uint32_t first_row) {
#pragma unroll
    for (std::uint32_t k = 0; k < count; ++k) {
      const std::uint32_t i = threadIdx.x % 128 + 128 * k;
      values[k] = query_chunk<kHead>(p, w.item, w.kv_head, first_row + i / chunks, i % chunks);
    }
  }
  __device__ void store(std::uint8_t* to) const {
#pragma unroll
    for (std::uint32_t k = 0; k < count; ++k) {
      const std::uint32_t i = threadIdx.x % 128 + 128 * k;
      *reinterpret_cast<uint4*>(swizzled(to, 64, i / chunks, i % chunks)) = values[k];
    }
    fence_async_proxy();
  }
};

__device__ inline void arrive_threads(int barrier, int count) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}

template <int kHead>
__global__ void __launch_bounds__(threads, 1)
    wide_kernel(const __grid_constant__ CUtensorMap arena,
                const __grid_constant__ attention_parameters p) {
  using shape = tile_shape<kHead>;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t* queries = shared;
  std::uint8_t* ring = queries + groups * shape::query_bytes;  // K stages, then V stages
  auto& barriers = *reinterpret_cast<wide_barriers*>(ring + 2 * stages * shape::kv_bytes);
  if (threadIdx.x == 0) barriers.init(pair_blocks * groups);
  sync_cluster();
  let_next_kernel_start();

  // The work list is of this step, not of the kernel before: it may be read at once.
  if (threadIdx.x >= groups * 128) {
    give_registers<24>();
    if (threadIdx.x < groups * 128 + 32) {
      ring_position<stages> at;
      for (std::uint32_t turn = 0;; ++turn) {
        wide_item w(p, turn);
        if (!w.there) break;
        w.item.kv_end = w.kv_end;
        feed<shape, kHead, keys, stages>(arena, p, w.item, w.kv_head, w.tiles, ring, nullptr,
                                         barriers, at, w.share);
      }
    }
  } else {
    take_registers<240>();
    const int group = static_cast<int>(threadIdx.x) / 128;
    const std::uint32_t first_row = group * 64;
    std::uint8_t* my_queries = queries + group * shape::query_bytes;
    const std::uint32_t my_row = first_row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    ring_position<stages> at, values;
    if (group == 1) arrive_threads(turn_barrier, 256);
    // To both blocks, whose copies fill it together.
    const auto free_stage = [&](std::uint64_t* empty) {
      if (threadIdx.x % 128 < pair_blocks) barrier_arrive_at(empty, threadIdx.x % 128);
    };
    query_registers<kHead> fetched;
    wide_item w(p, 0);
    wait_for_previous_kernel();
    if (w.there) fetched.load(p, w, first_row);
    for (std::uint32_t turn = 1; w.there; ++turn) {
      fetched.store(my_queries);
      sync_threads(1 + group, 128);
      const attention_item item = w.item;
      int last[2];  // keys after it are masked
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        last[r] = min(static_cast<int>(item.position + (my_row + 8 * r) / p.group),
                      static_cast<int>(item.kv_end) - 1);
      }
      // The lowest row of the block sees this many keys; tiles before it need no mask.
      const std::uint32_t unmasked = min(item.position + 1, item.kv_end);

      float scores[keys / 2], output[kHead / 2], rescale[2];
      std::uint32_t probabilities[keys / 4];
      softmax_state<false> softmax;
      const auto finish_scores = [&]<bool kMasks>(std::uint32_t t) __attribute__((always_inline)) {
        hold(scores);
        const std::uint32_t first = item.kv_begin + t * keys;
        if (kMasks && first + keys > unmasked) mask_scores(scores, static_cast<int>(first), last);
        softmax.update(scores, p.scale_log2, rescale);
      };

      barrier_wait(barriers.full + at.stage, at.phase);
      wgmma_fence();
      start_scores<kHead, keys>(scores, my_queries, ring + at.stage * shape::kv_bytes);
      wgmma_commit();
      wgmma_wait<0>();
      free_stage(barriers.empty + at.stage);
      at.advance();
      finish_scores.template operator()<true>(0);
      pack_probabilities(scores, probabilities);

      // A tile's scores and the values of the one before run together; its softmax hides behind the latter.
      const auto go_on = [&]<bool kMasks>(std::uint32_t t) __attribute__((always_inline)) {
        barrier_wait(barriers.full + at.stage, at.phase);
        sync_threads(turn_barrier + group, 256);
        hold(scores);
        hold(output);
        wgmma_fence();
        start_scores<kHead, keys>(scores, my_queries, ring + at.stage * shape::kv_bytes);
        wgmma_commit();
        barrier_wait(barriers.full + stages + values.stage, values.phase);
        start_values<kHead, keys>(output, probabilities,
                                  ring + (stages + values.stage) * shape::kv_bytes, t > 1);
        wgmma_commit();
        arrive_threads(turn_barrier + 1 - group, 256);
        wgmma_wait<1>();
        free_stage(barriers.empty + at.stage);
        finish_scores.template operator()<kMasks>(t);
        keep_before_wait(softmax, threadIdx.x % 128 == 0, barriers.scratch[group]);
        wgmma_wait<0>();
        hold(output);
        free_stage(barriers.empty + stages + values.stage);
#pragma unroll
        for (int i = 0; i < kHead / 2; ++i) output[i] *= rescale[i / 2 % 2];
        pack_probabilities(scores, probabilities);
        at.advance();
        values.advance();
      };
      std::uint32_t t = 1;
      // Without a branch in it: ptxas would move the waits to its end.
      const std::uint32_t plain = unmasked < item.kv_begin ? 0 : (unmasked - item.kv_begin) / keys;
      for (; t < plain; ++t) go_on.template operator()<false>(t);
      for (; t < w.tiles; ++t) go_on.template operator()<true>(t);

      barrier_wait(barriers.full + stages + values.stage, values.phase);
      wgmma_fence();
      start_values<kHead, keys>(output, probabilities,
                                ring + (stages + values.stage) * shape::kv_bytes, t > 1);
      wgmma_commit();
      const std::uint32_t kv_head = w.kv_head;
      w = wide_item(p, turn);
      if (w.there) fetched.load(p, w, first_row);
      wgmma_wait<0>();
      hold(output);
      free_stage(barriers.empty + stages + values.stage);
      values.advance();
      softmax.finish();
      store_rows<kHead>(p, item, kv_head, first_row, output, softmax);
      sync_threads(1 + group, 128);  // the queries may be overwritten
    }
  }
  __syncwarp();
  sync_cluster();  // neither leaves while the other copies into its memory
}

template <int kHead>
result<void> prepare() {
  return allow_shared_memory(wide_kernel<kHead>, tile_shape<kHead>::shared_bytes,
                             "preparing attend");
}
template <int kHead>
result<void> run(const CUtensorMap& arena, std::uint32_t blocks, const attention_parameters& p,
                 bool early, cudaStream_t stream) {
  return launch("attend", wide_kernel<kHead>,
                {dim3(blocks), dim3(threads), tile_shape<kHead>::shared_bytes, pair_blocks}, stream,
                early, arena, p);
}

}  // namespace

result<void> prepare_wide_attention() {
  TROUPE_CHECK(prepare<64>());
  return prepare<128>();
}

result<void> attend_wide(std::uint32_t head_dim, const CUtensorMap& arena, std::uint32_t items,
                         const attention_parameters& p, bool early, cudaStream_t stream) {
  // Each pair takes one item each. A grid of fewer makes them take several, so that the next one's first tiles and queries come while one
  // ends: 4 pairs a place took 4 % less (8,192 tokens), but no test has compared their results yet.
  const std::uint32_t pairs = (items + pair_blocks - 1) / pair_blocks * p.num_kv_heads;
  return head_dim == 64 ? run<64>(arena, pairs * pair_blocks, p, early, stream)
                        : run<128>(arena, pairs * pair_blocks, p, early, stream);
}

}  // namespace troupe::gpu::cuda
