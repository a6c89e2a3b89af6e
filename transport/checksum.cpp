#include "transport/checksum.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string_view>

#include "base/hash.hpp"
#include "base/result.hpp"
#include "transport/checksum_kernel.hpp"

namespace troupe::transport {
namespace {

using detail::block_job;
using detail::stripe_bytes;
using detail::sum_block_bytes;

// XXH3's published default secret and primes.
alignas(64) constexpr unsigned char secret_bytes[192] = {
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
// Shorter inputs have forms of their own in XXH3; libxxhash does those.
constexpr std::size_t longest_short = 240;

const std::byte* secret() {
  return reinterpret_cast<const std::byte*>(secret_bytes);
}

std::uint64_t load64(const std::byte* p) {
  std::uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}

void accumulate(std::uint64_t* lanes, const std::byte* data, const std::byte* key) {
  for (std::size_t i = 0; i < 8; ++i) {
    std::uint64_t value = load64(data + 8 * i), keyed = value ^ load64(key + 8 * i);
    lanes[i ^ 1] += value;
    lanes[i] += (keyed & 0xFFFFFFFF) * (keyed >> 32);
  }
}

std::uint64_t fold_product(std::uint64_t a, std::uint64_t b) {
  __extension__ using wide = unsigned __int128;
  wide product = static_cast<wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

constexpr std::array<std::uint64_t, 8> first_lanes = {prime32_3, prime64_1, prime64_2, prime64_3,
                                                      prime64_4, prime32_2, prime64_5, prime32_1};

// The blocks that the kernel does: all but the last, which is 1 to 1024 bytes.
std::size_t whole_blocks(std::size_t bytes) {
  return bytes == 0 ? 0 : (bytes - 1) / sum_block_bytes;
}

std::uint64_t finish(std::array<std::uint64_t, 8> lanes, const std::byte* data, std::size_t bytes) {
  std::size_t done = whole_blocks(bytes) * sum_block_bytes;
  for (std::size_t i = 0; i < (bytes - 1 - done) / stripe_bytes; ++i)
    accumulate(lanes.data(), data + done + i * stripe_bytes, secret() + 8 * i);
  accumulate(lanes.data(), data + bytes - stripe_bytes, secret() + 192 - stripe_bytes - 7);
  std::uint64_t h = bytes * prime64_1;
  for (std::size_t i = 0; i < 4; ++i)
    h += fold_product(lanes[2 * i] ^ load64(secret() + 11 + 16 * i),
                      lanes[2 * i + 1] ^ load64(secret() + 11 + 16 * i + 8));
  h ^= h >> 37;
  h *= 0x165667919E3779F9;
  return h ^ (h >> 32);
}

struct kernel_choice {
  const char* name;
  detail::block_kernel run;
  bool usable;
};
const std::array<kernel_choice, 3>& kernels() {
  static const std::array<kernel_choice, 3> all = {{
      {"avx512", detail::blocks_avx512,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni")},
      {"avx2", detail::blocks_avx2,
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {"portable", detail::blocks_portable, true},
  }};
  return all;
}
std::atomic<const kernel_choice*>& chosen() {
  static std::atomic<const kernel_choice*> choice = &*std::find_if(
      kernels().begin(), kernels().end(), [](const kernel_choice& k) { return k.usable; });
  return choice;
}

}  // namespace

void detail::blocks_portable(const block_job& job) {
  const std::byte* from = job.from;
  std::byte* to = job.to;
  for (std::size_t block = 0; block < job.blocks; ++block, from += sum_block_bytes) {
    const std::byte* data = from;
    if (to != nullptr) {
      std::memcpy(to, from, sum_block_bytes);
      data = to;  // the sum is of the copy
      to += sum_block_bytes;
    }
    if (job.lanes == nullptr) continue;
    for (std::size_t i = 0; i < stripes_per_block; ++i)
      accumulate(job.lanes, data + i * stripe_bytes, job.secret + 8 * i);
    for (std::size_t i = 0; i < 8; ++i) {
      std::uint64_t& lane = job.lanes[i];
      lane = (lane ^ (lane >> 47) ^ load64(job.secret + 192 - stripe_bytes + 8 * i)) * prime32_1;
    }
  }
}

summing_copy::summing_copy(std::byte* to, std::size_t bytes, bool want_sum)
    : to_(to), bytes_(bytes), want_sum_(want_sum), lanes_(first_lanes) {
  static_assert(granule == sum_block_bytes);
}

void summing_copy::append(const std::byte* from, std::size_t bytes) {
  TROUPE_ASSERT(bytes <= left());
  TROUPE_ASSERT(bytes % granule == 0 || bytes == left());
  // All but the last block are the kernel's.
  std::size_t by_kernel = whole_blocks(bytes_) * granule;
  std::size_t blocks = copied_ < by_kernel ? std::min(bytes, by_kernel - copied_) / granule : 0;
  chosen()
      .load(std::memory_order_relaxed)
      ->run({want_sum_ ? lanes_.data() : nullptr, to_ + copied_, from, blocks, secret()});
  std::size_t tail = bytes - blocks * granule;
  if (tail != 0) std::memcpy(to_ + copied_ + blocks * granule, from + blocks * granule, tail);
  copied_ += bytes;
}

std::uint64_t summing_copy::sum() const {
  TROUPE_ASSERT(done());
  TROUPE_ASSERT(want_sum_);
  if (bytes_ <= longest_short) return hash64({to_, bytes_});
  return finish(lanes_, to_, bytes_);
}

std::uint64_t checksum64(std::span<const std::byte> data) {
  if (data.size() <= longest_short) return hash64(data);
  alignas(64) std::array<std::uint64_t, 8> lanes = first_lanes;
  chosen()
      .load(std::memory_order_relaxed)
      ->run({lanes.data(), nullptr, data.data(), whole_blocks(data.size()), secret()});
  return finish(lanes, data.data(), data.size());
}

const char* checksum_kernel() {
  return chosen().load()->name;
}

bool use_checksum_kernel(const char* name) {
  for (const kernel_choice& kernel : kernels()) {
    if (std::string_view(kernel.name) != name || !kernel.usable) continue;
    chosen().store(&kernel);
    return true;
  }
  return false;
}

}  // namespace troupe::transport
