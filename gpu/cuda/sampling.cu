#include "gpu/cuda/sampling.hpp"

#include <cooperative_groups.h>

#include <cfloat>

#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/ordered.cuh"
#include "gpu/cuda/status.hpp"

// Compiled with -fmad=false (CMakeLists.txt): each operation is rounded, as the host's is.
namespace troupe::gpu::cuda {
namespace {

namespace cg = cooperative_groups;

using u64 = unsigned long long;
using u32 = std::uint32_t;

constexpr u32 threads = 1024, warps = threads / 32;
constexpr u32 buckets = 2048;        // of the histogram
constexpr u32 list_size = threads;   // tokens of one bucket that are ranked one by one
constexpr float no_weight = -31.5f;  // exp of it is less than half a weight_unit

constexpr u32 most_blocks = 8;  // of a cluster, which has one row

struct block_memory {
  u32 low[buckets], high[buckets];  // 64-bit sums in halves: additions of 32 bits are native
  u64 keys[list_size], sizes[list_size];
  u64 per_warp[warps];
  u64 shared[2];  // with the cluster, taking turns
  u64 found, above;
  u32 count, bucket;
};

// The threads that share a row: those of a cluster's blocks.
struct team {
  block_memory& m;
  cg::cluster_group cluster = cg::this_cluster();
  u32 blocks = cluster.num_blocks(), block = cluster.block_rank();
  u32 turn = 0;

  __device__ u32 rank() const { return block * threads + threadIdx.x; }
  __device__ u32 size() const { return blocks * threads; }
  __device__ void sync() { cluster.sync(); }
  template <class T>
  __device__ T* of_block(T& mine, u32 other) {
    return cluster.map_shared_rank(&mine, other);
  }
};

// -- what all threads of the team work out together; every thread gets the result ----------------------------------------

template <class T, class Combine>
__device__ T combine_block(block_memory& m, T value, Combine f) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) value = f(value, __shfl_xor_sync(~0u, value, i));
  __syncthreads();
  T* per_warp = reinterpret_cast<T*>(m.per_warp);
  if (threadIdx.x % 32 == 0) per_warp[threadIdx.x / 32] = value;
  __syncthreads();
  value = per_warp[threadIdx.x % 32];
#pragma unroll
  for (int i = 16; i > 0; i /= 2) value = f(value, __shfl_xor_sync(~0u, value, i));
  return value;
}

// Of two turns, the slot of the one before is free: nobody is here before all have read it.
template <class T, class Combine>
__device__ T combine(team& t, T value, Combine f) {
  value = combine_block(t.m, value, f);
  if (t.blocks == 1) return value;
  T& slot = *reinterpret_cast<T*>(&t.m.shared[t.turn]);
  t.turn ^= 1;
  if (threadIdx.x == 0) slot = value;
  t.sync();
  T all = *t.of_block(slot, 0);
  for (u32 b = 1; b < t.blocks; ++b) all = f(all, *t.of_block(slot, b));
  return all;
}
__device__ u64 sum(team& t, u64 value) {
  return combine(t, value, [](u64 a, u64 b) { return a + b; });
}
__device__ u64 largest(team& t, u64 value) {
  return combine(t, value, [](u64 a, u64 b) { return a > b ? a : b; });
}

// The sum of what the threads of the block before this one have.
__device__ u64 sum_before(block_memory& m, u64 value) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u64 inclusive = value;
#pragma unroll
  for (int i = 1; i < 32; i *= 2) {
    const u64 other = __shfl_up_sync(~0u, inclusive, i);
    if (lane >= i) inclusive += other;
  }
  __syncthreads();
  if (lane == 31) m.per_warp[warp] = inclusive;
  __syncthreads();
  u64 before = inclusive - value;
  for (u32 w = 0; w < warp; ++w) before += m.per_warp[w];
  return before;
}

// f(token, logit) for every token; several loads are under way at once.
template <class F>
__device__ void each_token(const team& t, const float* row, u32 vocab, F f) {
  constexpr u32 ahead = 4;
  const u32 step = t.size();
  if (vocab % 4 == 0) {
    const float4* fours = reinterpret_cast<const float4*>(row);
    const u32 count = vocab / 4;
    for (u32 base = t.rank(); base < count; base += ahead * step) {
      float4 x[ahead];
#pragma unroll
      for (u32 i = 0; i < ahead; ++i)
        if (base + i * step < count) x[i] = fours[base + i * step];
#pragma unroll
      for (u32 i = 0; i < ahead; ++i) {
        const u32 token = 4 * (base + i * step);
        if (token >= vocab) break;
        f(token, x[i].x);
        f(token + 1, x[i].y);
        f(token + 2, x[i].z);
        f(token + 3, x[i].w);
      }
    }
    return;
  }
  for (u32 token = t.rank(); token < vocab; token += step) f(token, row[token]);
}

struct row_range {
  float least, most;  // least: of the finite
  u32 num_finite;
};
__device__ row_range range_of(team& t, const float* row, u32 vocab) {
  float least = FLT_MAX, most = -INFINITY;
  u32 finite = 0;
  each_token(t, row, vocab, [&](u32, float x) {
    if (is_finite(x)) {
      least = fminf(least, x);
      ++finite;
    }
    most = fmaxf(most, x);
  });
  row_range r;
  r.least = combine(t, least, [](float a, float b) { return fminf(a, b); });
  r.most = combine(t, most, [](float a, float b) { return fmaxf(a, b); });
  r.num_finite = static_cast<u32>(sum(t, finite));
  return r;
}

// -- thresholds ----------------------------------------------------------------------------------------------------------

__device__ void add(block_memory& m, u32 bucket, u64 size) {
  const u32 low = static_cast<u32>(size);
  u32 high = static_cast<u32>(size >> 32);
  if (atomicAdd(&m.low[bucket], low) + low < low) ++high;
  if (high != 0) atomicAdd(&m.high[bucket], high);
}

// The key of the last of the best tokens that together have at least `needed`, each size(token, logit); all together have
// it. `floor`: a logit, below which few of them are expected.
template <class Size>
__device__ u64 threshold(team& t, const float* row, u32 vocab, float most, float floor, u64 needed,
                         Size size) {
  block_memory& m = t.m;
  const float scale = (buckets - 1) / (most - floor);
  const auto bucket_of = [&](float x) {
    return min(static_cast<u32>((most - x) * scale), buckets - 1);
  };
  __syncthreads();
  for (u32 i = threadIdx.x; i < buckets; i += threads) m.low[i] = m.high[i] = 0;
  if (threadIdx.x == 0) m.count = 0;
  __syncthreads();
  each_token(t, row, vocab, [&](u32 token, float x) {
    const u32 bucket = bucket_of(x);
    if (bucket == buckets - 1) return;  // all that are below the floor
    const u64 s = size(token, x);
    if (s != 0) add(m, bucket, s);
  });
  t.sync();
  static_assert(buckets == 2 * threads);
  const u32 mine = 2 * threadIdx.x;
  u64 first = 0, second = 0;
  for (u32 b = 0; b < t.blocks; ++b) {
    const u32 *low = t.of_block(m.low[0], b), *high = t.of_block(m.high[0], b);
    first += static_cast<u64>(high[mine]) << 32 | low[mine];
    second += static_cast<u64>(high[mine + 1]) << 32 | low[mine + 1];
  }
  const u64 before = sum_before(m, first + second);
  if (threadIdx.x == threads - 1) {
    m.bucket = buckets - 1;
    m.above = before + first + second;
  }
  __syncthreads();
  if (before < needed && needed <= before + first + second) {
    const bool in_first = needed <= before + first;
    m.bucket = in_first ? mine : mine + 1;
    m.above = in_first ? before : before + first;
  }
  __syncthreads();
  const u32 chosen = m.bucket;
  const u64 above = m.above;
  each_token(t, row, vocab, [&](u32 token, float x) {
    if (bucket_of(x) != chosen) return;
    const u64 s = size(token, x);
    if (s == 0) return;
    const u32 at = atomicAdd(&m.count, 1);
    if (at >= list_size) return;
    m.keys[at] = ordered_key(x, token);
    m.sizes[at] = s;
  });
  t.sync();
  u32 longest = 0;
  for (u32 b = 0; b < t.blocks; ++b) longest = max(longest, *t.of_block(m.count, b));
  if (longest <= list_size) {
    if (threadIdx.x < m.count) {
      const u64 key = m.keys[threadIdx.x];
      u64 reached = above;
      for (u32 b = 0; b < t.blocks; ++b) {
        const u32 count = *t.of_block(m.count, b);
        const u64 *keys = t.of_block(m.keys[0], b), *sizes = t.of_block(m.sizes[0], b);
        for (u32 i = 0; i < count; ++i)
          if (keys[i] > key) reached += sizes[i];
      }
      if (reached < needed && needed <= reached + m.sizes[threadIdx.x])
        *t.of_block(m.found, 0) = key;
    }
    t.sync();
    return *t.of_block(m.found, 0);
  }
  // The largest key from which on upwards there is enough. Of the lower half only a token's bits differ.
  u64 key = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const u64 candidate = key | 1ull << bit;
    if (bit < 32 && (vocab - 1) >> bit == 0) {
      key = candidate;
      continue;
    }
    u64 reached = 0;
    each_token(t, row, vocab, [&](u32 token, float x) {
      if (ordered_key(x, token) >= candidate) reached += size(token, x);
    });
    if (sum(t, reached) >= needed) key = candidate;
  }
  return key;
}

// -- one row -------------------------------------------------------------------------------------------------------------

__device__ void add_logprobs(team& t, const float* row, u32 vocab, const row_range& range,
                             u32 num_top, row_sample& out) {
  block_memory& m = t.m;
  u64 total = 0;
  each_token(t, row, vocab,
             [&](u32, float x) { total += weight_units(exp_nonpositive(x - range.most)); });
  total = sum(t, total);
  if (t.rank() == 0) {
    out.largest = range.most;
    out.total = total;
    out.num_top = min(num_top, vocab);
  }
  if (num_top == 0) return;
  u64 key = 0;
  if (num_top < vocab)
    key = threshold(t, row, vocab, range.most, range.least, num_top,
                    [](u32, float) -> u64 { return 1; });
  __syncthreads();
  if (threadIdx.x == 0) m.count = 0;
  __syncthreads();
  each_token(t, row, vocab, [&](u32 token, float x) {
    if (ordered_key(x, token) >= key) m.keys[atomicAdd(&m.count, 1)] = ordered_key(x, token);
  });
  t.sync();
  if (threadIdx.x < m.count) {
    u32 rank = 0;
    for (u32 b = 0; b < t.blocks; ++b) {
      const u32 count = *t.of_block(m.count, b);
      const u64* keys = t.of_block(m.keys[0], b);
      for (u32 i = 0; i < count; ++i) rank += keys[i] > m.keys[threadIdx.x];
    }
    const u32 token = ~static_cast<u32>(m.keys[threadIdx.x]);
    out.top[rank].token = token;
    out.top[rank].logit = row[token];
  }
  t.sync();
}

// The first token whose weight, added to that of the tokens before it, exceeds the drawn one. Each warp sums a stretch of the
// row; the block in whose stretches it happens looks closer.
template <class Weight>
__device__ u32 invert(team& t, const float* row, u32 vocab, u64 random, Weight weight) {
  block_memory& m = t.m;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 stretch = (vocab + t.size() - 1) / t.size() * 32;
  const u32 begin_of_block = t.block * warps * stretch;
  u64 mine = 0;
#pragma unroll 8
  for (u32 i = lane; i < stretch; i += 32) {
    const u32 token = begin_of_block + warp * stretch + i;
    if (token < vocab) mine += weight(token, row[token]);
  }
#pragma unroll
  for (int i = 16; i > 0; i /= 2) mine += __shfl_xor_sync(~0u, mine, i);
  __syncthreads();
  if (lane == 0) m.per_warp[warp] = mine;
  __syncthreads();
  u64& slot = m.shared[t.turn];
  t.turn ^= 1;
  if (threadIdx.x == 0) {
    u64 of_block = 0;
    for (u32 w = 0; w < warps; ++w) of_block += m.per_warp[w];
    slot = of_block;
  }
  t.sync();
  u64 total = 0, target = 0;
  for (u32 b = 0; b < t.blocks; ++b) total += *t.of_block(slot, b);
  target = drawn_weight(total, random);
  u32 holder = 0;
  for (u64 w; target >= (w = *t.of_block(slot, holder)); ++holder) target -= w;
  if (holder == t.block) {
    u32 chosen = 0;
    while (target >= m.per_warp[chosen]) target -= m.per_warp[chosen++];
    const u32 first = begin_of_block + chosen * stretch;
    const u32 begin = first + (threadIdx.x * stretch) / threads;
    const u32 end = min(vocab, first + ((threadIdx.x + 1) * stretch) / threads);
    mine = 0;
    for (u32 token = begin; token < end; ++token) mine += weight(token, row[token]);
    u64 before = sum_before(m, mine);
    if (before <= target && target < before + mine) {
      u32 token = begin;
      for (u64 w; target >= before + (w = weight(token, row[token])); ++token) before += w;
      *t.of_block(m.found, 0) = token;
    }
  }
  t.sync();
  return static_cast<u32>(*t.of_block(m.found, 0));
}

__device__ u32 draw(team& t, const float* row, u32 vocab, const row_range& range,
                    const sampling_task& how) {
  const auto weight = [&](u32, float x) -> u64 {
    const float w = exp_nonpositive((x - range.most) * how.scale);
    return w >= how.min_p ? weight_units(w) : 0;
  };
  u64 cut = 0;
  if (how.top_k > 0 && how.top_k < range.num_finite)
    cut = threshold(t, row, vocab, range.most, range.least, how.top_k,
                    [](u32, float x) -> u64 { return is_finite(x) ? 1 : 0; });
  const auto kept = [&](u32 token, float x) -> u64 {
    return ordered_key(x, token) >= cut ? weight(token, x) : 0;
  };
  if (how.top_p < 1) {
    u64 total = 0;
    each_token(t, row, vocab, [&](u32 token, float x) { total += kept(token, x); });
    total = sum(t, total);
    const u64 needed = needed_weight(total, how.top_p);
    // Tokens that weigh no more than this are not needed, even all of them.
    const u64 little = (total - needed) / vocab;
    const float reach =
        little > 0 ? logf(static_cast<float>(little) * static_cast<float>(weight_unit)) - 0.01f
                   : no_weight;
    cut = threshold(t, row, vocab, range.most, fmaxf(range.least, range.most + reach / how.scale),
                    needed, kept);
  }
  return invert(t, row, vocab, how.random, kept);
}

__device__ u32 best(team& t, const float* row, u32 vocab) {
  u64 key = 0;
  each_token(t, row, vocab, [&](u32 token, float x) { key = max(key, ordered_key(x, token)); });
  return ~static_cast<u32>(largest(t, key));
}

// The edits keep what the logits were.
__device__ void apply(team& t, float* row, logit_edit* edits, u32 count) {
  t.sync();
  for (u32 i = t.rank(); i < count; i += t.size()) {
    const logit_edit e = edits[i];
    edits[i].bias = row[e.token];
    row[e.token] = edited(row[e.token], e);
  }
  t.sync();
}

__device__ void keep_allowed(team& t, float* row, u32 vocab, const std::uint64_t* allowed) {
  constexpr u32 ahead = 8;
  const u32 fours = (vocab + 3) / 4, step = t.size();
  for (u32 base = t.rank(); base < fours; base += ahead * step) {
    u32 masked[ahead];
#pragma unroll
    for (u32 i = 0; i < ahead; ++i) {
      const u32 at = base + i * step;
      masked[i] = at < fours ? ~static_cast<u32>(allowed[at / 16] >> at % 16 * 4) & 15 : 0;
    }
#pragma unroll
    for (u32 i = 0; i < ahead; ++i) {
      const u32 token = 4 * (base + i * step);
      if (masked[i] == 15 && vocab % 4 == 0) {
        *reinterpret_cast<float4*>(row + token) =
            make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
        continue;
      }
#pragma unroll
      for (u32 k = 0; k < 4; ++k)
        if ((masked[i] >> k & 1) != 0 && token + k < vocab) row[token + k] = -INFINITY;
    }
  }
  t.sync();
}

// allowed: nullptr where every token is.
__device__ void sample(team& t, float* row, u32 vocab, const sampling_task& how, logit_edit* edits,
                       const std::uint64_t* allowed, row_sample& out) {
  row_range range = range_of(t, row, vocab);
  if (range.num_finite < vocab) {
    if (t.rank() == 0) out.status = sample_status::not_finite;
    return;
  }
  if (how.logprobs) add_logprobs(t, row, vocab, range, how.num_top, out);
  const bool chooses = how.way != sampling_way::score;
  const u32 num_edits = chooses ? how.num_edits : 0;
  if (num_edits > 0) apply(t, row, edits, num_edits);
  if (chooses && allowed != nullptr) keep_allowed(t, row, vocab, allowed);
  if (num_edits > 0 || (chooses && allowed != nullptr)) range = range_of(t, row, vocab);
  u32 token = how.given;
  if (chooses) {
    if (!is_finite(range.most)) {
      if (t.rank() == 0) out.status = sample_status::nothing_left;
      return;
    }
    token = how.way == sampling_way::greedy ? best(t, row, vocab) : draw(t, row, vocab, range, how);
  }
  if (t.rank() == 0) {
    out.status = sample_status::chosen;
    out.token = token;
    out.logit = row[token];
  }
  if (num_edits == 0) return;
  t.sync();
  for (u32 i = t.rank(); i < num_edits; i += t.size())
    if (edits[i].token == token) out.logit = edits[i].bias;
}

__global__ void __launch_bounds__(threads) sample_kernel(const sampling_arguments a) {
  __shared__ block_memory m;
  team t{m};
  const sampling_task how = a.tasks[blockIdx.x / t.blocks];
  sample(t, a.logits + static_cast<std::size_t>(how.row - a.first_row) * a.vocab, a.vocab, how,
         a.edits + how.first_edit,
         how.mask == no_mask ? nullptr : a.masks + std::size_t{how.mask} * mask_words(a.vocab),
         a.samples[how.sample]);
  t.sync();  // no block leaves while others look into its memory
}

}  // namespace

result<void> prepare_sampling() {
  return load_kernels("preparing sampling", sample_kernel);
}

result<void> sample_rows(const sampling_arguments& a, cudaStream_t stream) {
  // As many blocks a row as fill the card once.
  u32 blocks = most_blocks;
  while (blocks > 1 && a.num_tasks * blocks > a.multiprocessors) blocks /= 2;
  return launch("sampling", sample_kernel, {dim3(a.num_tasks * blocks), dim3(threads), 0, blocks},
                stream, false, a);
}

}  // namespace troupe::gpu::cuda
