#include "transport/checksum.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string_view>

#include "base/hash.hpp"
#include "base/result.hpp"
#include "base/xxh3.hpp"
#include "transport/checksum_kernel.hpp"

namespace troupe::transport {
namespace {

using namespace xxh3;
using detail::block_job;
using detail::stripe_bytes;
using detail::sum_block_bytes;

// Shorter inputs have forms of their own in XXH3; libxxhash does those.
constexpr std::size_t longest_short = 240;

const std::byte* secret() {
  return reinterpret_cast<const std::byte*>(default_secret.bytes);
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
    : to_(to), bytes_(bytes), want_sum_(want_sum), lanes_(std::to_array(first_lanes.lanes)) {
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
  alignas(64) std::array<std::uint64_t, 8> lanes = std::to_array(first_lanes.lanes);
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
