// Logits as integers of the same order, for maxima and thresholds. Device code.
#pragma once

#include <cstdint>

namespace troupe::gpu::cuda {

// Equal floats give equal integers (minus zero is zero).
__device__ inline std::uint32_t ordered(float x) {
  const std::uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The higher comes first: by logit, then the lower token.
__device__ inline unsigned long long ordered_key(float x, std::uint32_t token) {
  return static_cast<unsigned long long>(ordered(x)) << 32 | ~token;
}

__device__ inline bool is_finite(float x) {
  return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

// What the highest of is rows.hpp's argmax.
__device__ inline unsigned long long argmax_key(float logit, std::uint32_t token) {
  return is_finite(logit) ? ordered_key(logit, token) : ~0ull;
}

}  // namespace troupe::gpu::cuda
