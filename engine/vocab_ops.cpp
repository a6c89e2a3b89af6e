#include "engine/vocab_ops.hpp"

#include <bit>

namespace troupe::engine {

const vocab_ops& best_vocab_ops() {
  static const vocab_ops& best = []() -> const vocab_ops& {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))  // what the build enables for _avx512.cpp files
      return vocab_ops_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return vocab_ops_avx2;
    return vocab_ops_portable;
  }();
  return best;
}

// x = 2^e m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh((m-1)/(m+1)), whose series ends below
// 1e-17 after s^23.
double fixed_log(double x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  auto exponent = static_cast<int>((bits >> 52) & 0x7ff) - 1023;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffull) | (1023ull << 52));
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;
  double series = 0;
  for (int k = 23; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
  return exponent * 0.6931471805599453 + 2.0 * s * series;
}

}  // namespace troupe::engine
