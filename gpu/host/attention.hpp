// Attention of some queries over one tile of 64 tokens, with the running softmax of FlashAttention (Dao 2022,
// arXiv 2205.14135) and the merge of FlashDecoding. Templates over the instruction set's `simd`; contracts in
// kernels.hpp.
//
// The order of arithmetic of a query depends on its position only: score = fma over head_dim in order; tiles begin
// at multiples of 64 tokens, segments at multiples of 512; a masked token adds an exact zero.
#pragma once

#include "gpu/host/kernels.hpp"
#include "gpu/host/rows.hpp"

namespace troupe::gpu::host {
namespace {

template <class S>
struct attention_kernels {
  using f = typename S::f;

  // With fewer queries than this, values are converted where they are used rather than once for all.
  static constexpr std::uint32_t few_queries = 2 * S::attention_rows;

  static void attend(const attention_args& a) {
    load_keys(a);
    if (a.num_queries > few_queries) {
      load_values(a);
      all_queries<float>(a);
    } else {
      all_queries<std::uint16_t>(a);
    }
  }

  // The next tile is read ahead while this one is used, a line at a time: its blocks lie elsewhere in the arena, where
  // the hardware does not look, and many reads at once would hold up those of this tile.
  static void read_ahead(const kv_tile* next, const std::uint16_t* const* tokens,
                         std::uint32_t token, std::uint32_t d) {
    if (token < next->num_tokens && d % 32 == 0) S::prefetch(tokens[token] + d);
  }

  // Tokens become lanes; zeros past the tile's end in its last 16.
  static void load_keys(const attention_args& a) {
    const kv_tile& tile = *a.tile;
    for (std::uint32_t first = 0; first < tile.num_tokens; first += 16) {
      for (std::uint32_t d = 0; d < a.head_dim; d += 16) {
        f rows[16];
        for (std::uint32_t t = 0; t < 16; ++t) {
          rows[t] = first + t < tile.num_tokens ? S::load_f16(tile.k[first + t] + d) : S::zero();
          if (a.next) read_ahead(a.next, a.next->k, first + t, d);
        }
        S::transpose16(rows, a.keys + std::size_t{d} * attention_tile + first, attention_tile);
      }
    }
  }

  static void load_values(const attention_args& a) {
    const kv_tile& tile = *a.tile;
    for (std::uint32_t t = 0; t < tile.num_tokens; ++t) {
      for (std::uint32_t d = 0; d < a.head_dim; d += 16) {
        S::store(a.values + std::size_t{t} * a.head_dim + d, S::load_f16(tile.v[t] + d));
        if (a.next) read_ahead(a.next, a.next->v, t, d);
      }
    }
  }

  template <class V>
  static void all_queries(const attention_args& a) {
    constexpr int step = S::attention_rows;
    std::uint32_t q = 0;
    for (; q + step <= a.num_queries; q += step) queries<step, V>(a, q);
    if constexpr (step > 3) {
      if (q + 3 <= a.num_queries) queries<3, V>(a, q), q += 3;
    }
    for (; q < a.num_queries; ++q) queries<1, V>(a, q);
  }

  template <int n, class V>
  static void queries(const attention_args& a, std::uint32_t first) {
    constexpr int vectors = S::attention_vectors;
    std::uint32_t longest = 0;
    for (int r = 0; r < n; ++r)
      longest = a.num_tokens[first + r] > longest ? a.num_tokens[first + r] : longest;
    const std::uint32_t blocks = (longest + 15) / 16;

    alignas(64) float scores[n][attention_tile];
    for (std::uint32_t b = 0; b < blocks; b += vectors) {
      if (blocks - b >= vectors)
        score<n, vectors>(a, first, b, scores);
      else
        for (std::uint32_t c = b; c < blocks; ++c) score<n, 1>(a, first, c, scores);
    }
    alignas(64) float change[16] = {};
    for (int r = 0; r < n; ++r)
      change[r] = softmax(scores[r], blocks, a.num_tokens[first + r], a.states[first + r]);
    S::store(change, row_kernels<S>::exp(S::load(change)));
    for (int r = 0; r < n; ++r) {
      attention_state& s = a.states[first + r];
      s.sum = __builtin_fmaf(s.sum, change[r], sum_of(scores[r], blocks));
    }
    for (std::uint32_t d = 0; d < a.head_dim; d += 16 * vectors) {
      if (d + 16 * vectors <= a.head_dim)
        accumulate<n, vectors, V>(a, first, d, longest, scores, change);
      else
        for (std::uint32_t e = d; e < a.head_dim; e += 16)
          accumulate<n, 1, V>(a, first, e, longest, scores, change);
    }
  }

  template <int n, int vectors>
  static void score(const attention_args& a, std::uint32_t first, std::uint32_t block,
                    float (&scores)[n][attention_tile]) {
    f s[n][vectors];
    for (int r = 0; r < n; ++r)
      for (int v = 0; v < vectors; ++v) s[r][v] = S::zero();
    const float* keys = a.keys + 16 * block;
    for (std::uint32_t d = 0; d < a.head_dim; ++d, keys += attention_tile) {
      f k[vectors];
      for (int v = 0; v < vectors; ++v) k[v] = S::load(keys + 16 * v);
      for (int r = 0; r < n; ++r) {
        const f q = S::set1(a.queries[first + r][d]);
        for (int v = 0; v < vectors; ++v) s[r][v] = S::fma(q, k[v], s[r][v]);
      }
    }
    for (int r = 0; r < n; ++r)
      for (int v = 0; v < vectors; ++v) S::store(scores[r] + 16 * (block + v), s[r][v]);
  }

  // Turns scores into weights exp(score - highest); returns the old highest minus the new one.
  static float softmax(float* scores, std::uint32_t blocks, std::uint32_t num_tokens,
                       attention_state& state) {
    const f masked = S::set1(-__builtin_inff());
    f highest = masked;
    for (std::uint32_t b = 0; b < blocks; ++b) {
      const f x = S::first_lanes(S::load(scores + 16 * b),
                                 static_cast<int>(num_tokens) - static_cast<int>(16 * b), masked);
      S::store(scores + 16 * b, x);
      highest = S::max(highest, x);
    }
    const float tile_highest = S::highest(highest);
    const float now = state.highest > tile_highest ? state.highest : tile_highest;
    const float change = state.highest - now;
    state.highest = now;
    for (std::uint32_t b = 0; b < blocks; ++b) {
      S::store(scores + 16 * b,
               row_kernels<S>::exp(S::sub(S::load(scores + 16 * b), S::set1(now))));
    }
    return change;
  }

  static float sum_of(const float* weights, std::uint32_t blocks) {
    f s = S::load(weights);
    for (std::uint32_t b = 1; b < blocks; ++b) s = S::add(s, S::load(weights + 16 * b));
    return S::sum(s);
  }

  // V: float reads the scratch, std::uint16_t the cache.
  template <int n, int vectors, class V>
  static void accumulate(const attention_args& a, std::uint32_t first, std::uint32_t d,
                         std::uint32_t tokens, const float (&weights)[n][attention_tile],
                         const float (&change)[16]) {
    f o[n][vectors];
    for (int r = 0; r < n; ++r)
      for (int v = 0; v < vectors; ++v)
        o[r][v] = S::mul(S::load(a.states[first + r].output + d + 16 * v), S::set1(change[r]));
    for (std::uint32_t t = 0; t < tokens; ++t) {
      f x[vectors];
      for (int v = 0; v < vectors; ++v) {
        if constexpr (sizeof(V) == sizeof(float)) {
          x[v] = S::load(a.values + std::size_t{t} * a.head_dim + d + 16 * v);
        } else {
          x[v] = S::load_f16(a.tile->v[t] + d + 16 * v);
          if (first == 0 && a.next)
            read_ahead(a.next, a.next->v, t, d + 16 * static_cast<std::uint32_t>(v));
        }
      }
      for (int r = 0; r < n; ++r) {
        const f w = S::set1(weights[r][t]);
        for (int v = 0; v < vectors; ++v) o[r][v] = S::fma(w, x[v], o[r][v]);
      }
    }
    for (int r = 0; r < n; ++r)
      for (int v = 0; v < vectors; ++v) S::store(a.states[first + r].output + d + 16 * v, o[r][v]);
  }

  static void merge(attention_state& total, const attention_state& segment,
                    std::uint32_t head_dim) {
    const float highest = total.highest > segment.highest ? total.highest : segment.highest;
    alignas(64) float factors[16] = {total.highest - highest, segment.highest - highest};
    S::store(factors, row_kernels<S>::exp(S::load(factors)));
    const f a = S::set1(factors[0]), b = S::set1(factors[1]);
    total.highest = highest;
    total.sum = __builtin_fmaf(total.sum, factors[0], segment.sum * factors[1]);
    for (std::uint32_t d = 0; d < head_dim; d += 16) {
      S::store(total.output + d,
               S::fma(S::load(total.output + d), a, S::mul(S::load(segment.output + d), b)));
    }
  }
};

}  // namespace
}  // namespace troupe::gpu::host
