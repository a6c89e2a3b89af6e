// XXH3-64 on the device: its constants, stripes, parts of 1,024 bytes and the end. A part's stripes may be added in any
// order; parts are chained in order (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
// Device code only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::cuda {

// XXH3's published default secret and primes (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
static __constant__ std::uint8_t secret_bytes[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};
constexpr std::uint64_t prime32_1 = 0x9E3779B1, prime32_2 = 0x85EBCA77, prime32_3 = 0xC2B2AE3D;
constexpr std::uint64_t prime64_1 = 0x9E3779B185EBCA87, prime64_2 = 0xC2B2AE3D27D4EB4F,
                        prime64_3 = 0x165667B19E3779F9, prime64_4 = 0x85EBCA77C2B2AE63,
                        prime64_5 = 0x27D4EB2F165667C5;

constexpr unsigned part_bytes = 1024, stripe_bytes = 64, stripes_per_part = 16;
constexpr unsigned secret_words = 24;

__device__ inline std::uint64_t secret_at(unsigned offset) {
  std::uint64_t word = 0;
  for (unsigned i = 0; i < 8; ++i) word |= std::uint64_t{secret_bytes[offset + i]} << (8 * i);
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
  constexpr std::uint64_t first[8] = {prime32_3, prime64_1, prime64_2, prime64_3,
                                      prime64_4, prime32_2, prime64_5, prime32_1};
  std::uint64_t value = first[0];
  for (unsigned i = 1; i < 8; ++i) value = lane == i ? first[i] : value;
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
