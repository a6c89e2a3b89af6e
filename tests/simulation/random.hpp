// The one source of chance of a schedule: splitmix64, the same numbers everywhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

namespace troupe::simulation {

class random {
 public:
  explicit random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t n) { return next() % n; }  // REQUIRES: n > 0
  std::uint32_t between(std::uint32_t low, std::uint32_t high) {
    return low + static_cast<std::uint32_t>(below(std::uint64_t{high} - low + 1));
  }
  std::chrono::nanoseconds between(std::chrono::nanoseconds low, std::chrono::nanoseconds high) {
    return low +
           std::chrono::nanoseconds(below(static_cast<std::uint64_t>((high - low).count()) + 1));
  }
  bool chance(double p) { return p > 0 && static_cast<double>(next() >> 11) * 0x1p-53 < p; }
  double fraction() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  std::uint64_t state_;
};

}  // namespace troupe::simulation
