// Attention of some queries over one tile of 64 tokens, with the running softmax of FlashAttention (Dao 2022,
// arXiv 2205.14135) and the merge of FlashDecoding. Templates over the instruction set's `simd`; contracts in
// kernels.hpp.
//
// The order of arithmetic of a query depends on its position only: score = fma over head_dim in order; tiles begin
// at multiples of 64 tokens, segments at multiples of 512; a masked token adds an exact zero.
#pragma once

#include <type_traits>

#include "gpu/host/kernels.hpp"
#include "gpu/host/rows.hpp"

namespace troupe::gpu::host {
namespace {

template <class S>
struct attention_kernels {
  using f = typename S::f;

  // Up to so many queries values are converted where they are used rather than once for all, and keys are turned by
  // the first queries that want them.
  static constexpr std::uint32_t few_queries = 2 * S::attention_rows;

  static void attend(const attention_args& a) {
    if (a.num_queries > few_queries) {
      load_keys(a);
      load_values(a);
      all_queries<float>(a);
    } else {
      all_queries<std::uint16_t>(a);
    }
  }

  static std::uint32_t blocks_of(std::uint32_t tokens) { return (tokens + 15) / 16; }

  // Sixteen tokens become lanes, sixteen dimensions from d rows of `out`. Past the tile's end the first token is
  // repeated: softmax() masks it.
  static void turn_keys(const attention_args& a, std::uint32_t first, std::uint32_t d,
                        std::uint16_t* out, std::uint32_t stride) {
    const kv_tile& tile = *a.tile;
    if (first + 16 <= tile.num_tokens) {
      S::transpose_f16(tile.k + first, d, out, stride);
    } else {
      const std::uint16_t* tokens[16];
      for (std::uint32_t t = 0; t < 16; ++t)
        tokens[t] = tile.k[first + t < tile.num_tokens ? first + t : first];
      S::transpose_f16(tokens, d, out, stride);
    }
  }

  static void load_keys(const attention_args& a) {
    for (std::uint32_t first = 0; first < a.tile->num_tokens; first += 16) {
      for (std::uint32_t d = 0; d < a.head_dim; d += 16) {
        alignas(64) std::uint16_t turned[16 * 16];
        turn_keys(a, first, d, turned, 16);
        if (a.ahead) a.ahead->fetch(8);
        for (std::uint32_t c = 0; c < 16; ++c) {
          S::store(a.keys + std::size_t{d + c} * attention_tile + first,
                   S::load_f16(turned + 16 * c));
        }
      }
    }
  }

  static void load_values(const attention_args& a) {
    const kv_tile& tile = *a.tile;
    for (std::uint32_t t = 0; t < tile.num_tokens; ++t) {
      for (std::uint32_t d = 0; d < a.head_dim; d += 16) {
        S::store(a.values + std::size_t{t} * a.head_dim + d, S::load_f16(tile.v[t] + d));
        if (a.ahead && d % 32 == 0) a.ahead->fetch(1);
      }
    }
  }

  // Calls f.operator()<n>() for 1 <= n <= most.
  template <int most, class F>
  static void with_constant(std::uint32_t n, const F& f) {
    if constexpr (most > 1) {
      if (n < most) return with_constant<most - 1>(n, f);
    }
    f.template operator()<most>();
  }

  // Calls f.operator()<n>(at) for parts of 0 .. total, as even as they can be and at most `most` long.
  template <int most, class F>
  static void in_parts(std::uint32_t total, const F& f) {
    std::uint32_t at = 0;
    for (std::uint32_t parts = (total + most - 1) / most; parts > 0; --parts) {
      const std::uint32_t n = (total - at + parts - 1) / parts;
      with_constant<most>(n, [&]<int count>() { f.template operator()<count>(at); });
      at += n;
    }
  }

  // V: float reads the scratch, std::uint16_t the cache.
  template <class V>
  static void all_queries(const attention_args& a) {
    in_parts<S::attention_rows>(a.num_queries,
                                [&]<int n>(std::uint32_t first) { queries<n, V>(a, first); });
  }

  // Vectors a row that leave room in the registers.
  template <int rows>
  static constexpr int vectors_max =
      S::attention_registers / rows < 4 ? S::attention_registers / rows : 4;

  template <int n, class V>
  static void queries(const attention_args& a, std::uint32_t first) {
    std::uint32_t longest = 0;
    for (int r = 0; r < n; ++r)
      longest = a.num_tokens[first + r] > longest ? a.num_tokens[first + r] : longest;
    const std::uint32_t blocks = blocks_of(longest);

    alignas(64) float scores[n][attention_tile];
    const bool turn = sizeof(V) == sizeof(std::uint16_t) && first == 0;
    in_parts<vectors_max<n>>(turn ? blocks_of(a.tile->num_tokens) : blocks,
                             [&]<int vectors>(std::uint32_t block) {
                               if (turn)
                                 score<n, vectors, V, true>(a, first, block, scores);
                               else
                                 score<n, vectors, V, false>(a, first, block, scores);
                             });
    f changes = S::zero();
    for (int r = 0; r < n; ++r) {
      const float change = softmax(scores[r], blocks, a.num_tokens[first + r], a.states[first + r]);
      changes = S::first_lanes(changes, r, S::set1(change));
    }
    alignas(64) float change[16];
    S::store(change, row_kernels<S>::exp(changes));
    for (int r = 0; r < n; ++r) {
      attention_state& s = a.states[first + r];
      s.sum = __builtin_fmaf(s.sum, change[r], sum_of(scores[r], blocks));
    }
    in_parts<vectors_max<n>>(a.head_dim / 16, [&]<int vectors>(std::uint32_t d) {
      accumulate<n, vectors, V>(a, first, 16 * d, longest, scores, change);
    });
  }

  // turn: also makes the keys of these blocks, for all queries.
  template <int n, int vectors, class V, bool turn>
  static void score(const attention_args& a, std::uint32_t first, std::uint32_t block,
                    float (&scores)[n][attention_tile]) {
    constexpr bool converted = sizeof(V) == sizeof(float);
    using key = std::conditional_t<converted, const float, std::uint16_t>;
    f s[n][vectors];
    const float* q[n];
    for (int r = 0; r < n; ++r) {
      q[r] = a.queries[first + r];
      for (int v = 0; v < vectors; ++v) s[r][v] = S::zero();
    }
    key* keys = reinterpret_cast<key*>(a.keys) + 16 * block;
    read_ahead ahead = turn && a.ahead ? *a.ahead : read_ahead{};
    // One plain loop where nothing is turned: its accumulators stay in registers.
    const std::uint32_t step = turn ? 16 : a.head_dim;
    for (std::uint32_t part = 0; part < a.head_dim; part += step) {
      if constexpr (turn && !converted) {
        for (std::uint32_t v = 0; v < vectors; ++v)
          turn_keys(a, 16 * (block + v), part, keys + 16 * v, attention_tile);
      }
      for (std::uint32_t d = part; d < part + step; ++d, keys += attention_tile) {
        if (turn) ahead.fetch((vectors + static_cast<int>(d & 1)) / 2);
        f k[vectors];
        for (int v = 0; v < vectors; ++v) {
          if constexpr (converted)
            k[v] = S::load(keys + 16 * v);
          else
            k[v] = S::load_f16(keys + 16 * v);
        }
        for (int r = 0; r < n; ++r) {
          const f x = S::set1(q[r][d]);
          for (int v = 0; v < vectors; ++v) s[r][v] = S::fma(x, k[v], s[r][v]);
        }
      }
    }
    for (int r = 0; r < n; ++r)
      for (int v = 0; v < vectors; ++v) S::store(scores[r] + 16 * (block + v), s[r][v]);
    if (turn && a.ahead) *a.ahead = ahead;
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

  template <int n, int vectors, class V>
  static void accumulate(const attention_args& a, std::uint32_t first, std::uint32_t d,
                         std::uint32_t tokens, const float (&weights)[n][attention_tile],
                         const float (&change)[16]) {
    f o[n][vectors];
    for (int r = 0; r < n; ++r)
      for (int v = 0; v < vectors; ++v)
        o[r][v] = S::mul(S::load(a.states[first + r].output + d + 16 * v), S::set1(change[r]));
    const bool reads = sizeof(V) == sizeof(std::uint16_t) && first == 0 && a.ahead;
    read_ahead ahead = reads ? *a.ahead : read_ahead{};
    for (std::uint32_t t = 0; t < tokens; ++t) {
      if constexpr (sizeof(V) == sizeof(std::uint16_t))
        ahead.fetch((vectors + static_cast<int>(t & 1)) / 2);
      f x[vectors];
      for (int v = 0; v < vectors; ++v) {
        if constexpr (sizeof(V) == sizeof(float)) {
          x[v] = S::load(a.values + std::size_t{t} * a.head_dim + d + 16 * v);
        } else {
          x[v] = S::load_f16(a.tile->v[t] + d + 16 * v);
        }
      }
      for (int r = 0; r < n; ++r) {
        const f w = S::set1(weights[r][t]);
        for (int v = 0; v < vectors; ++v) o[r][v] = S::fma(w, x[v], o[r][v]);
      }
    }
    for (int r = 0; r < n; ++r)
      for (int v = 0; v < vectors; ++v) S::store(a.states[first + r].output + d + 16 * v, o[r][v]);
    if (reads) *a.ahead = ahead;
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
