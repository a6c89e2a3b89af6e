// What nobody may guess: random bytes from the kernel, keyed hashes, and a comparison whose time tells nothing of what
// was compared. Any thread; a random_ids belongs to one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace troupe {

void fill_random(std::span<std::byte> out);

// HMAC-SHA256: only who knows `key` can compute it or check it.
std::array<std::byte, 32> keyed_hash(std::string_view key, std::string_view text);

// Takes the same time wherever they differ. Lengths are no secret.
bool same_secret(std::span<const std::byte> a, std::span<const std::byte> b);

// Numbers of 64 random bits, never 0, never one given before but by a chance of 2^-64. About 20 ns each.
class random_ids {
 public:
  std::uint64_t next();

 private:
  std::array<std::uint64_t, 32> ahead_{};
  std::size_t left_ = 0;
};

}  // namespace troupe
