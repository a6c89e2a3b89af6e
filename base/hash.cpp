#include "base/hash.hpp"

#include <xxhash.h>

#include "base/result.hpp"

namespace troupe {

std::uint64_t hash64(std::span<const std::byte> data, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data.data(), data.size(), seed);
}

hash128_stream::hash128_stream() : state_(XXH3_createState()) {
  TROUPE_ASSERT(state_ != nullptr);
  XXH3_128bits_reset(static_cast<XXH3_state_t*>(state_));
}

hash128_stream::~hash128_stream() {
  XXH3_freeState(static_cast<XXH3_state_t*>(state_));
}

void hash128_stream::update(std::span<const std::byte> data) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state_), data.data(), data.size());
}

hash128_t hash128_stream::digest() const {
  auto h = XXH3_128bits_digest(static_cast<const XXH3_state_t*>(state_));
  return {h.high64, h.low64};
}

std::string to_hex(const hash128_t& h) {
  static const char* digits = "0123456789abcdef";
  std::string text;
  for (std::uint64_t half : {h.high, h.low})
    for (int shift = 60; shift >= 0; shift -= 4) text += digits[(half >> shift) & 15];
  return text;
}

}  // namespace troupe
