// XXH3 (https://xxhash.com, through libxxhash): checksums of KV payloads and identities of content.
// Not a defence against forgery: peers authenticate before their blocks are trusted. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace troupe {

std::uint64_t hash64(std::span<const std::byte> data, std::uint64_t seed = 0);

struct hash128_t {
  std::uint64_t high = 0, low = 0;
  friend bool operator==(const hash128_t&, const hash128_t&) = default;
  friend auto operator<=>(const hash128_t&, const hash128_t&) = default;
};
// Streaming 128-bit hash.
class hash128_stream {
 public:
  hash128_stream();
  ~hash128_stream();
  hash128_stream(const hash128_stream&) = delete;
  hash128_stream& operator=(const hash128_stream&) = delete;
  void update(std::span<const std::byte> data);
  hash128_t digest() const;

 private:
  void* state_;
};
std::string to_hex(const hash128_t& h);  // 32 lower-case digits

}  // namespace troupe

template <>
struct std::hash<troupe::hash128_t> {
  std::size_t operator()(const troupe::hash128_t& h) const noexcept {
    return h.low ^ (h.high * 0x9E3779B97F4A7C15ull);
  }
};
