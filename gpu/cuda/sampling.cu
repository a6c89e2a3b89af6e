#include "gpu/cuda/sampling.hpp"

#include <cfloat>

#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/ordered.cuh"

// Compiled with -fmad=false (CMakeLists.txt): each operation is rounded, as the host's is.
namespace troupe::gpu::cuda {
namespace {

using u64 = unsigned long long;
using u32 = std::uint32_t;

constexpr u32 threads = 1024, warps = threads / 32;
constexpr u32 buckets = 2048;        // of the histogram
constexpr u32 list_size = threads;   // tokens of one bucket that are ranked one by one
constexpr float no_weight = -31.5f;  // exp of it is less than half a weight_unit

struct block_memory {
  u32 low[buckets], high[buckets];  // 64-bit sums in halves: additions of 32 bits are native
  u64 keys[list_size], sizes[list_size];
  u64 per_warp[warps];
  u64 found, above;
  u32 count, bucket;
};

// -- what all threads of the block work out together; every thread gets the result ---------------------------------------

template <class T, class Combine>
__device__ T combine(block_memory& m, T value, Combine f) {
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
__device__ u64 sum(block_memory& m, u64 value) {
  return combine(m, value, [](u64 a, u64 b) { return a + b; });
}
__device__ u64 largest(block_memory& m, u64 value) {
  return combine(m, value, [](u64 a, u64 b) { return a > b ? a : b; });
}

// The sum of what the threads before this one have.
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
__device__ void each_token(const float* row, u32 vocab, F f) {
  constexpr u32 ahead = 8;
  for (u32 base = threadIdx.x; base < vocab; base += ahead * threads) {
    float x[ahead];
#pragma unroll
    for (u32 i = 0; i < ahead; ++i)
      if (base + i * threads < vocab) x[i] = row[base + i * threads];
#pragma unroll
    for (u32 i = 0; i < ahead; ++i)
      if (base + i * threads < vocab) f(base + i * threads, x[i]);
  }
}

struct row_range {
  float least, most;  // least: of the finite
  bool finite;        // all are
};
__device__ row_range range_of(block_memory& m, const float* row, u32 vocab) {
  float least = FLT_MAX, most = -INFINITY;
  bool finite = true;
  each_token(row, vocab, [&](u32, float x) {
    if (is_finite(x))
      least = fminf(least, x);
    else
      finite = false;
    most = fmaxf(most, x);
  });
  row_range r;
  r.least = combine(m, least, [](float a, float b) { return fminf(a, b); });
  r.most = combine(m, most, [](float a, float b) { return fmaxf(a, b); });
  r.finite = sum(m, finite ? 0 : 1) == 0;
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
__device__ u64 threshold(block_memory& m, const float* row, u32 vocab, float most, float floor,
                         u64 needed, Size size) {
  const float scale = (buckets - 1) / (most - floor);
  const auto bucket_of = [&](float x) {
    return min(static_cast<u32>((most - x) * scale), buckets - 1);
  };
  __syncthreads();
  for (u32 i = threadIdx.x; i < buckets; i += threads) m.low[i] = m.high[i] = 0;
  if (threadIdx.x == 0) m.count = 0;
  __syncthreads();
  each_token(row, vocab, [&](u32 token, float x) {
    const u32 bucket = bucket_of(x);
    if (bucket == buckets - 1) return;  // all that are below the floor
    const u64 s = size(token, x);
    if (s != 0) add(m, bucket, s);
  });
  __syncthreads();
  static_assert(buckets == 2 * threads);
  const u32 mine = 2 * threadIdx.x;
  const u64 first = static_cast<u64>(m.high[mine]) << 32 | m.low[mine];
  const u64 second = static_cast<u64>(m.high[mine + 1]) << 32 | m.low[mine + 1];
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
  each_token(row, vocab, [&](u32 token, float x) {
    if (bucket_of(x) != chosen) return;
    const u64 s = size(token, x);
    if (s == 0) return;
    const u32 at = atomicAdd(&m.count, 1);
    if (at >= list_size) return;
    m.keys[at] = ordered_key(x, token);
    m.sizes[at] = s;
  });
  __syncthreads();
  const u32 count = m.count;
  if (count <= list_size) {
    if (threadIdx.x < count) {
      const u64 key = m.keys[threadIdx.x], own = m.sizes[threadIdx.x];
      u64 reached = above;
      for (u32 i = 0; i < count; ++i)
        if (m.keys[i] > key) reached += m.sizes[i];
      if (reached < needed && needed <= reached + own) m.found = key;
    }
    __syncthreads();
    return m.found;
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
    each_token(row, vocab, [&](u32 token, float x) {
      if (ordered_key(x, token) >= candidate) reached += size(token, x);
    });
    if (sum(m, reached) >= needed) key = candidate;
  }
  return key;
}

// -- one row -------------------------------------------------------------------------------------------------------------

__device__ void add_logprobs(block_memory& m, const float* row, u32 vocab, const row_range& range,
                             u32 num_top, row_sample& out) {
  u64 total = 0;
  each_token(row, vocab,
             [&](u32, float x) { total += weight_units(exp_nonpositive(x - range.most)); });
  total = sum(m, total);
  if (threadIdx.x == 0) {
    out.largest = range.most;
    out.total = total;
    out.num_top = min(num_top, vocab);
  }
  if (num_top == 0) return;
  u64 key = 0;
  if (num_top < vocab)
    key = threshold(m, row, vocab, range.most, range.least, num_top,
                    [](u32, float) -> u64 { return 1; });
  __syncthreads();
  if (threadIdx.x == 0) m.count = 0;
  __syncthreads();
  each_token(row, vocab, [&](u32 token, float x) {
    if (ordered_key(x, token) >= key) m.keys[atomicAdd(&m.count, 1)] = ordered_key(x, token);
  });
  __syncthreads();
  if (threadIdx.x < m.count) {
    u32 rank = 0;
    for (u32 i = 0; i < m.count; ++i) rank += m.keys[i] > m.keys[threadIdx.x];
    const u32 token = ~static_cast<u32>(m.keys[threadIdx.x]);
    out.top[rank].token = token;
    out.top[rank].logit = row[token];
  }
}

// The first token whose weight, added to that of the tokens before it, exceeds the target. Each warp sums a stretch of the
// row; all threads then share the one where it happens.
template <class Weight>
__device__ u32 invert(block_memory& m, const float* row, u32 vocab, u64 random, Weight weight) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 stretch = (vocab + threads - 1) / threads * 32;
  u64 mine = 0;
#pragma unroll 8
  for (u32 i = lane; i < stretch; i += 32) {
    const u32 token = warp * stretch + i;
    if (token < vocab) mine += weight(token, row[token]);
  }
#pragma unroll
  for (int i = 16; i > 0; i /= 2) mine += __shfl_xor_sync(~0u, mine, i);
  __syncthreads();
  if (lane == 0) m.per_warp[warp] = mine;
  __syncthreads();
  u64 total = 0;
  for (u32 w = 0; w < warps; ++w) total += m.per_warp[w];
  u64 target = drawn_weight(total, random);
  u32 chosen = 0;
  while (target >= m.per_warp[chosen]) target -= m.per_warp[chosen++];
  const u32 first = chosen * stretch;
  const u32 begin = first + (threadIdx.x * stretch) / threads;
  const u32 end = first + ((threadIdx.x + 1) * stretch) / threads;
  mine = 0;
  for (u32 token = begin; token < end && token < vocab; ++token) mine += weight(token, row[token]);
  u64 before = sum_before(m, mine);
  if (before <= target && target < before + mine) {
    u32 token = begin;
    for (u64 w; target >= before + (w = weight(token, row[token])); ++token) before += w;
    m.found = token;
  }
  __syncthreads();
  return static_cast<u32>(m.found);
}

__device__ u32 draw(block_memory& m, const float* row, u32 vocab, const row_range& range,
                    const sampling_task& t) {
  const auto weight = [&](u32, float x) -> u64 {
    const float w = exp_nonpositive((x - range.most) * t.scale);
    return w >= t.min_p ? weight_units(w) : 0;
  };
  u64 cut = 0;
  const bool limits_k = t.top_k > 0 && t.top_k < vocab;
  if (limits_k)
    cut = threshold(m, row, vocab, range.most, range.least, t.top_k,
                    [](u32, float) -> u64 { return 1; });
  const auto kept = [&](u32 token, float x) -> u64 {
    return ordered_key(x, token) >= cut ? weight(token, x) : 0;
  };
  if (t.top_p < 1) {
    u64 total = 0;
    each_token(row, vocab, [&](u32 token, float x) { total += kept(token, x); });
    total = sum(m, total);
    const u64 needed = needed_weight(total, t.top_p);
    // Tokens that weigh no more than this are not needed, even all of them.
    const u64 little = (total - needed) / vocab;
    const float reach =
        little > 0 ? logf(static_cast<float>(little) * static_cast<float>(weight_unit)) - 0.01f
                   : no_weight;
    cut = threshold(m, row, vocab, range.most, fmaxf(range.least, range.most + reach / t.scale),
                    needed, kept);
  }
  return invert(m, row, vocab, t.random, kept);
}

__global__ void __launch_bounds__(threads) sample_kernel(const sampling_arguments a) {
  __shared__ block_memory m;
  const sampling_task t = a.tasks[blockIdx.x];
  row_sample& out = a.samples[t.sample];
  float* row = a.logits + static_cast<std::size_t>(t.row - a.first_row) * a.vocab;
  logit_edit* edits = a.edits + t.first_edit;
  row_range range = range_of(m, row, a.vocab);
  if (!range.finite) {
    if (threadIdx.x == 0) out.status = sample_status::not_finite;
    return;
  }
  if (t.logprobs) add_logprobs(m, row, a.vocab, range, t.num_top, out);
  u32 token = t.given;
  if (t.way != sampling_way::score) {
    if (t.num_edits > 0) {
      __syncthreads();
      for (u32 i = threadIdx.x; i < t.num_edits; i += threads) {
        const logit_edit e = edits[i];
        edits[i].bias = row[e.token];  // as it came
        row[e.token] = edited(row[e.token], e);
      }
      __syncthreads();
      range = range_of(m, row, a.vocab);
    }
    if (!is_finite(range.most)) {
      if (threadIdx.x == 0) out.status = sample_status::nothing_left;
      return;
    }
    if (t.way == sampling_way::greedy) {
      u64 best = 0;
      each_token(row, a.vocab, [&](u32 i, float x) { best = max(best, ordered_key(x, i)); });
      token = ~static_cast<u32>(largest(m, best));
    } else {
      token = draw(m, row, a.vocab, range, t);
    }
  }
  if (threadIdx.x == 0) {
    out.status = sample_status::chosen;
    out.token = token;
    out.logit = row[token];
  }
  if (t.way == sampling_way::score) return;
  __syncthreads();
  for (u32 i = threadIdx.x; i < t.num_edits; i += threads)
    if (edits[i].token == token) out.logit = edits[i].bias;
}

}  // namespace

result<void> sample_rows(const sampling_arguments& a, cudaStream_t stream) {
  return launch("sample_rows", sample_kernel, {dim3(a.num_tasks), dim3(threads), 0}, stream, false,
                a);
}

}  // namespace troupe::gpu::cuda
