#include <algorithm>

#include "gpu/cuda/block_sums.hpp"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

// XXH3's published default secret and primes (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
__constant__ std::uint8_t secret_bytes[192] = {
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
constexpr unsigned adders = 256, parts_per_round = adders / 4, threads = adders + 32;
constexpr unsigned secret_words = 24;

struct sum_memory {
  std::uint64_t parts[2][parts_per_round][8];
  std::uint64_t secret[secret_words];
};

__device__ std::uint64_t secret_at(unsigned offset) {
  std::uint64_t word = 0;
  for (unsigned i = 0; i < 8; ++i) word |= std::uint64_t{secret_bytes[offset + i]} << (8 * i);
  return word;
}

__device__ std::uint64_t low_times_high(std::uint64_t x) {
  return (x & 0xFFFFFFFF) * (x >> 32);
}

__device__ std::uint64_t fold_product(std::uint64_t a, std::uint64_t b) {
  return (a * b) ^ __umul64hi(a, b);
}

__device__ std::uint64_t avalanche(std::uint64_t h) {
  h ^= h >> 37;
  h *= 0x165667919E3779F9;
  return h ^ (h >> 32);
}

__device__ std::uint64_t first_lane(unsigned lane) {
  constexpr std::uint64_t first[8] = {prime32_3, prime64_1, prime64_2, prime64_3,
                                      prime64_4, prime32_2, prime64_5, prime32_1};
  std::uint64_t value = first[0];
  for (unsigned i = 1; i < 8; ++i) value = lane == i ? first[i] : value;
  return value;
}

// Four threads a part, two lanes each.
__device__ void add_part(const std::byte* part, unsigned pair, const std::uint64_t* secret,
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
__device__ std::uint64_t add_stripe(std::uint64_t lanes, const std::byte* stripe, unsigned lane,
                                    unsigned secret_offset) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(stripe);
  return lanes + low_times_high(__ldcg(words + lane) ^ secret_at(secret_offset + 8 * lane)) +
         __ldcg(words + (lane ^ 1));
}

// Lanes 0 to 7 of a warp hold XXH3's lanes; lane 0 gets the sum.
__device__ std::uint64_t finish(std::uint64_t lanes, const std::byte* data, std::uint64_t bytes,
                                unsigned lane) {
  const std::uint64_t done = (bytes - 1) / part_bytes * part_bytes;
  const unsigned stripes = static_cast<unsigned>((bytes - 1 - done) / stripe_bytes);
  for (unsigned s = 0; s < stripes; ++s)
    lanes = add_stripe(lanes, data + done + s * stripe_bytes, lane, 8 * s);
  lanes = add_stripe(lanes, data + bytes - stripe_bytes, lane, 192 - stripe_bytes - 7);
  const std::uint64_t mine = lanes ^ secret_at(11 + 8 * lane);
  const std::uint64_t other = __shfl_xor_sync(0xFF, mine, 1);
  std::uint64_t sum = lane % 2 == 0 ? fold_product(mine, other) : 0;
  for (unsigned step = 1; step < 8; step *= 2) sum += __shfl_xor_sync(0xFF, sum, step);
  return avalanche(bytes * prime64_1 + sum);
}

// All threads of the block; the sum is thread `adders`'s.
__device__ std::uint64_t sum_payload(const std::byte* data, std::uint64_t bytes,
                                     sum_memory& memory) {
  const unsigned thread = threadIdx.x, lane = thread - adders;
  const bool adds = thread < adders, chains = !adds && lane < 8;
  if (thread < secret_words) memory.secret[thread] = secret_at(8 * thread);
  __syncthreads();
  const auto parts = static_cast<unsigned>((bytes - 1) / part_bytes);
  const unsigned rounds = (parts + parts_per_round - 1) / parts_per_round;
  std::uint64_t lanes = chains ? first_lane(lane) : 0;
  const std::uint64_t key = chains ? secret_at(192 - stripe_bytes + 8 * lane) : 0;
  for (unsigned round = 0; round <= rounds; ++round) {
    if (adds && round < rounds) {
      const unsigned at = thread / 4, part = round * parts_per_round + at;
      if (part < parts)
        add_part(data + std::uint64_t{part} * part_bytes, thread % 4, memory.secret,
                 memory.parts[round % 2][at]);
    }
    if (chains && round > 0) {
      const unsigned first = (round - 1) * parts_per_round;
      const unsigned count = min(parts_per_round, parts - first);
#pragma unroll 8
      for (unsigned i = 0; i < count; ++i) {
        lanes += memory.parts[(round - 1) % 2][i][lane];
        lanes = (lanes ^ (lanes >> 47) ^ key) * prime32_1;
      }
    }
    __syncthreads();
  }
  return chains ? finish(lanes, data, bytes, lane) : 0;
}

// XXH3 of 56 bytes: the form for 33 to 64.
__device__ std::uint64_t sum_of_fence(const std::uint64_t* words) {
  const auto mix = [&](unsigned word, unsigned key) {
    return fold_product(words[word] ^ secret_at(8 * key), words[word + 1] ^ secret_at(8 * key + 8));
  };
  return avalanche(56 * prime64_1 + mix(2, 4) + mix(3, 6) + mix(0, 0) + mix(5, 2));
}

struct sum_list {
  const std::byte* blocks[max_summed_blocks];
};
__global__ void __launch_bounds__(threads)
    sum_kernel(const __grid_constant__ sum_list list, std::uint64_t bytes, block_sum* out) {
  __shared__ sum_memory memory;
  const std::byte* block = list.blocks[blockIdx.x];
  const std::uint64_t sum = sum_payload(block, bytes, memory);
  if (threadIdx.x < adders) return;
  const unsigned lane = threadIdx.x - adders;
  if (lane == 0) out[blockIdx.x].sum = sum;
  if (lane < 8)
    out[blockIdx.x].fence[lane] =
        __ldcg(reinterpret_cast<const std::uint64_t*>(block + bytes) + lane);
}

struct seal_list {
  block_seal seals[max_summed_blocks];
};
__global__ void __launch_bounds__(threads)
    seal_kernel(const __grid_constant__ seal_list list, std::uint64_t bytes) {
  __shared__ sum_memory memory;
  const block_seal& order = list.seals[blockIdx.x];
  const std::uint64_t sum = sum_payload(order.block, bytes, memory);
  if (threadIdx.x != adders) return;
  std::uint64_t words[8];
  for (unsigned i = 0; i < 8; ++i) words[i] = order.image[i];
  words[4] = sum;
  words[7] = sum_of_fence(words);
  auto* fence = reinterpret_cast<volatile std::uint64_t*>(order.block + bytes);
  for (unsigned i = 1; i < 8; ++i) fence[i] = words[i];
  __threadfence_system();
  fence[0] = words[0];
}

struct mark_list {
  std::byte* places[max_invalidated_blocks];
};
__global__ void mark_kernel(const __grid_constant__ mark_list list, unsigned count,
                            std::uint64_t mark) {
  if (threadIdx.x < count)
    *reinterpret_cast<volatile std::uint64_t*>(list.places[threadIdx.x]) = mark;
}

void check_payload(std::size_t bytes) {
  TROUPE_ASSERT(bytes % stripe_bytes == 0 && bytes > 240);
}

}  // namespace

result<void> sum_blocks(std::span<const std::byte* const> blocks, std::size_t payload_bytes,
                        block_sum* out, cudaStream_t stream) {
  check_payload(payload_bytes);
  TROUPE_ASSERT(blocks.size() <= max_summed_blocks);
  sum_list list{};
  std::copy(blocks.begin(), blocks.end(), list.blocks);
  return launch("summing blocks", sum_kernel, {dim3(blocks.size()), dim3(threads)}, stream, false,
                list, std::uint64_t{payload_bytes}, out);
}

result<void> seal_blocks(std::span<const block_seal> seals, std::size_t payload_bytes,
                         cudaStream_t stream) {
  check_payload(payload_bytes);
  for (std::size_t first = 0; first < seals.size(); first += max_summed_blocks) {
    const auto some = seals.subspan(first, std::min(max_summed_blocks, seals.size() - first));
    seal_list list{};
    std::copy(some.begin(), some.end(), list.seals);
    TROUPE_CHECK(launch("sealing blocks", seal_kernel, {dim3(some.size()), dim3(threads)}, stream,
                        false, list, std::uint64_t{payload_bytes}));
  }
  return {};
}

result<void> store_marks(std::span<std::byte* const> places, std::uint64_t mark,
                         cudaStream_t stream) {
  for (std::size_t first = 0; first < places.size(); first += max_invalidated_blocks) {
    const auto some =
        places.subspan(first, std::min(max_invalidated_blocks, places.size() - first));
    mark_list list{};
    std::copy(some.begin(), some.end(), list.places);
    TROUPE_CHECK(launch("invalidating fences", mark_kernel, {dim3(1), dim3(max_invalidated_blocks)},
                        stream, false, list, static_cast<unsigned>(some.size()), mark));
  }
  return {};
}

}  // namespace troupe::gpu::cuda
