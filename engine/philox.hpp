// Philox4x32-10, a counter-based generator: a random number is a pure function of (key, counter),
// so it does not matter who draws it, when, or how often. Salmon, Moraes, Dror, Shaw: "Parallel
// random numbers: as easy as 1, 2, 3", SC 2011. Any thread.
#pragma once

#include <array>
#include <cstdint>

namespace troupe::engine {

using philox_counter = std::array<std::uint32_t, 4>;
using philox_key = std::array<std::uint32_t, 2>;

constexpr philox_counter philox4x32_10(philox_counter c, philox_key k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c;
}

// What a random number is used for: no two uses may share one.
enum class draw_purpose : std::uint32_t { token = 0 };

// 64 uniform bits. The seed is the key; sequence_index takes a word of the counter beside position
// (of the token in prompt + output) and purpose.
constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint32_t sequence_index,
                                    std::uint32_t position, draw_purpose purpose) {
  const philox_counter r =
      philox4x32_10({position, static_cast<std::uint32_t>(purpose), sequence_index, 0},
                    {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return std::uint64_t{r[0]} << 32 | r[1];
}

// The same as a number in [0, 1), 53 bits of it.
constexpr double uniform(std::uint64_t seed, std::uint32_t sequence_index, std::uint32_t position,
                         draw_purpose purpose) {
  return static_cast<double>(random_bits(seed, sequence_index, position, purpose) >> 11) *
         (1.0 / 9007199254740992.0);
}

}  // namespace troupe::engine
