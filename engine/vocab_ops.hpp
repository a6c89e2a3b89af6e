// Passes over one row of logits [vocab_size], the only part of sampling that touches every token.
// Compiled once for each instruction set from one source (vocab_ops_impl.hpp), chosen at run time,
// equal bit for bit on all of them: own exp and log, sums of integers. gpu/sampling.hpp has the
// arithmetic, which a GPU that samples shares.
//
// A row is cut in chunks of 64 tokens; per-chunk maxima let later steps skip what cannot matter.
// Any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace troupe::engine {

inline constexpr std::size_t vocab_chunk = 64;
constexpr std::size_t num_vocab_chunks(std::size_t n) {
  return (n + vocab_chunk - 1) / vocab_chunk;
}

// Tokens up to (logit, token) in the order "higher logit first, then lower token" are kept.
struct vocab_cut {
  float logit;
  std::uint32_t token;
  float min_weight;  // and only those of at least this weight
};

struct vocab_ops {
  const char* name;
  // chunk_max[c] = largest logit of chunk c, NaN ignored. Returns whether every logit is finite.
  bool (*scan)(const float* logits, std::size_t n, float* chunk_max);
  // weights[i] = exp((logits[i] - max) * scale), chunk_sum[c] = the sum of their weight_units. Logits
  // of -infinity have weight 0.
  void (*exp_weights)(const float* logits, std::size_t n, float max, float scale, float* weights,
                      std::uint64_t* chunk_sum);
  // Sets the weights of tokens that are not kept to 0 and sums again.
  void (*cut_weights)(const float* logits, std::size_t n, const vocab_cut& cut, float* weights,
                      std::uint64_t* chunk_sum);
};

extern const vocab_ops vocab_ops_portable, vocab_ops_avx2, vocab_ops_avx512;
const vocab_ops& best_vocab_ops();  // for this CPU

// Natural logarithm of a positive, finite, normal number; error below 1e-15 relative to max(1, |log
// x|).
double fixed_log(double x);

}  // namespace troupe::engine
