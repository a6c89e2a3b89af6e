// XXH3-64 on the device: its constants, stripes, parts of 1,024 bytes and the end. A part's stripes may be added in any
// order; parts are chained in order (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
// Device code only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/xxh3.hpp"

namespace troupe::gpu::cuda {

using namespace troupe::xxh3;

static __constant__ secret_t device_secret = default_secret;

constexpr unsigned part_bytes = 1024, stripe_bytes = 64, stripes_per_part = 16;
constexpr unsigned secret_words = 24;

__device__ inline std::uint64_t secret_at(unsigned offset) {
  std::uint64_t word = 0;
  for (unsigned i = 0; i < 8; ++i)
    word |= std::uint64_t{device_secret.bytes[offset + i]} << (8 * i);
  return word;
}

__device__ inline std::uint64_t low_times_high(std::uint64_t x) {
  return (x & 0xFFFFFFFF) * (x >> 32);
}

__device__ inline std::uint64_t fold_product(std::uint64_t a, std::uint64_t b) {
  return (a * b) ^ __umul64hi(a, b);
}

__device__ inline std::uint64_t avalanche(std::uint64_t h) {
  h ^= h >> 37;
  h *= 0x165667919E3779F9;
  return h ^ (h >> 32);
}

__device__ inline std::uint64_t first_lane(unsigned lane) {
  constexpr lanes_t first = first_lanes;
  std::uint64_t value = first.lanes[0];
  for (unsigned i = 1; i < 8; ++i) value = lane == i ? first.lanes[i] : value;
  return value;
}

// Four threads a part, two lanes each.
__device__ inline void add_part(const std::byte* part, unsigned pair, const std::uint64_t* secret,
                                std::uint64_t* to) {
  const auto* data = reinterpret_cast<const ulonglong2*>(part) + pair;
  ulonglong2 values[stripes_per_part];
#pragma unroll
  for (unsigned s = 0; s < stripes_per_part; ++s) values[s] = __ldcg(data + 4 * s);
  std::uint64_t even = 0, odd = 0;
#pragma unroll
  for (unsigned s = 0; s < stripes_per_part; ++s) {
    even += low_times_high(values[s].x ^ secret[s + 2 * pair]) + values[s].y;
    odd += low_times_high(values[s].y ^ secret[s + 2 * pair + 1]) + values[s].x;
  }
  to[2 * pair] = even;
  to[2 * pair + 1] = odd;
}

// One stripe for one lane of eight.
__device__ inline std::uint64_t add_stripe(std::uint64_t lanes, const std::byte* stripe,
                                           unsigned lane, unsigned secret_offset) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(stripe);
  return lanes + low_times_high(__ldcg(words + lane) ^ secret_at(secret_offset + 8 * lane)) +
         __ldcg(words + (lane ^ 1));
}

// Eight threads of a warp, `mask`, hold XXH3's lanes; lane 0 gets the sum.
__device__ inline std::uint64_t finish(std::uint64_t lanes, const std::byte* data,
                                       std::uint64_t bytes, unsigned lane, unsigned mask = 0xFF) {
  const std::uint64_t done = (bytes - 1) / part_bytes * part_bytes;
  const unsigned stripes = static_cast<unsigned>((bytes - 1 - done) / stripe_bytes);
#pragma unroll 5
  for (unsigned s = 0; s < stripes; ++s)
    lanes = add_stripe(lanes, data + done + s * stripe_bytes, lane, 8 * s);
  lanes = add_stripe(lanes, data + bytes - stripe_bytes, lane, 192 - stripe_bytes - 7);
  const std::uint64_t mine = lanes ^ secret_at(11 + 8 * lane);
  const std::uint64_t other = __shfl_xor_sync(mask, mine, 1);
  std::uint64_t sum = lane % 2 == 0 ? fold_product(mine, other) : 0;
  for (unsigned step = 1; step < 8; step *= 2) sum += __shfl_xor_sync(mask, sum, step);
  return avalanche(bytes * prime64_1 + sum);
}

}  // namespace troupe::gpu::cuda
