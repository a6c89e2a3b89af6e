// From a row of logits to a token: what is asked, what comes back, and the arithmetic of every implementation. There are
// two, engine/sampler on the host and gpu/cuda/sampling on the GPU, and they choose the same token and report the same
// logprobs for the same logits, bit for bit.
//
// No order of additions needs to be agreed on for that: a token's weight, exp of its scaled distance to the largest logit,
// is rounded once to a multiple of 2^-44, and sums of such weights are 64-bit integers. Everything else is an operation on
// one token (compiled without fused multiply-adds) or a comparison. Plain values and functions; any thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "base/ids.hpp"
#include "gpu/exp_constants.hpp"

#ifdef __CUDACC__
#define TROUPE_ON_BOTH __host__ __device__
#else
#define TROUPE_ON_BOTH
#endif

namespace troupe::gpu {

// What happens to one token's logit before the draw: bias, penalties, exclusion (a bias of minus infinity).
struct logit_edit {
  token_id token = 0;
  float bias = 0;        // added first
  float repetition = 1;  // then positive logits are divided by it, others multiplied
  float minus = 0;       // then this is subtracted
};

enum class sampling_way : std::uint8_t {
  greedy,  // the highest logit, of equals the lowest token
  draw,    // by the random number
  score,   // no choice: the logprob of `given`
};

// Order: logprobs of the logits as they come; edits; the mask; then temperature, min_p, top_k, top_p. Thresholds keep the lower of
// tokens with equal logits, so top_k keeps exactly k.
struct row_sampling {
  sampling_way way = sampling_way::greedy;
  bool logprobs = false;      // report what logprobs are made of
  std::uint32_t num_top = 0;  // and that many of the most likely tokens, <= max_top
  token_id given = 0;         // of `score`
  float scale = 1;            // 1 / temperature
  float top_p = 1, min_p = 0;
  std::uint32_t top_k = 0;            // 0: all
  std::uint64_t random = 0;           // uniform: the token whose share of the weights holds it
  std::span<const logit_edit> edits;  // of each token one at most
  // Bit t % 64 of word t / 64: whether token t can be chosen; tokens behind the last word can. Rows may share a mask.
  std::span<const std::uint64_t> allowed = {};
};
inline constexpr std::uint32_t max_top = 20;

enum class sample_status : std::uint32_t {
  chosen,
  not_finite,    // a logit is not a finite number
  nothing_left,  // edits exclude every token
};

struct row_sample {
  struct top_token {
    token_id token = 0;
    float logit = 0;
  };
  sample_status status = sample_status::chosen;
  token_id token = 0;
  // With logprobs, of the logits as they came: the token's, the largest, and the sum of all weights at scale 1. A logprob is
  // (logit - largest) - log(total).
  float logit = 0, largest = 0;
  std::uint64_t total = 0;    // in weight_unit
  std::uint32_t num_top = 0;  // most likely first; fewer than asked where the vocabulary is small
  top_token top[max_top];
};

inline constexpr double weight_unit = 1.0 / exp_constants::unit_scale;

// exp(x) for x <= 0, one rounding an operation; below -87 it is 0. engine/vocab_ops has it for whole registers.
TROUPE_ON_BOTH inline float exp_nonpositive(float x) {
  using c = exp_constants;
  if (x < c::least) return 0;
  const float shifted = x * c::log2_e + c::magic;
  const float n = shifted - c::magic;
  const float r = (x - n * c::ln2_high) - n * c::ln2_low;
  float p = c::p7;
  p = p * r + c::p6;
  p = p * r + c::p5;
  p = p * r + c::p4;
  p = p * r + c::p3;
  p = p * r + c::p2;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  std::int32_t exponent, from;
  const float magic = c::magic;
  memcpy(&exponent, &shifted, sizeof exponent);
  memcpy(&from, &magic, sizeof from);
  exponent = static_cast<std::int32_t>(static_cast<std::uint32_t>(exponent - from + 127) << 23);
  float power;
  memcpy(&power, &exponent, sizeof power);
  return p * power;
}

// In weight_unit, rounded to nearest, ties to even. weight in [0, 1].
TROUPE_ON_BOTH inline std::uint64_t weight_units(float weight) {
#ifdef __CUDA_ARCH__
  return __float2ull_rn(weight * 0x1p44f);
#else
  const double magic = exp_constants::unit_magic;
  const double shifted = static_cast<double>(weight) * exp_constants::unit_scale + magic;
  std::int64_t bits, from;
  memcpy(&bits, &shifted, sizeof bits);
  memcpy(&from, &magic, sizeof from);
  return static_cast<std::uint64_t>(bits - from);
#endif
}

TROUPE_ON_BOTH inline float edited(float logit, const logit_edit& e) {
  float x = logit + e.bias;
  x = x > 0 ? x / e.repetition : x * e.repetition;
  return x - e.minus;
}

// The weight that the tokens which top_p keeps must reach.
TROUPE_ON_BOTH inline std::uint64_t needed_weight(std::uint64_t total, float top_p) {
  const auto needed = static_cast<std::uint64_t>(static_cast<double>(total) * top_p);
  return needed > 0 ? needed : 1;
}

// The drawn token is the first whose weight, added to that of the tokens before it, exceeds this.
TROUPE_ON_BOTH inline std::uint64_t drawn_weight(std::uint64_t total, std::uint64_t random) {
#ifdef __CUDA_ARCH__
  return __umul64hi(total, random);
#else
  __extension__ using wide = unsigned __int128;
  return static_cast<std::uint64_t>((wide{total} * random) >> 64);
#endif
}

}  // namespace troupe::gpu
