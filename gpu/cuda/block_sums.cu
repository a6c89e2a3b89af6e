#include <algorithm>

#include "gpu/cuda/block_sums.hpp"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/xxh3.cuh"

namespace troupe::gpu::cuda {
namespace {

constexpr unsigned adders = 256, parts_per_round = adders / 4, threads = adders + 32;

struct sum_memory {
  std::uint64_t parts[2][parts_per_round][8];
  std::uint64_t secret[secret_words];
};

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

result<void> prepare_block_sums() {
  return load_kernels("preparing sums of blocks", sum_kernel, seal_kernel, mark_kernel);
}

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
