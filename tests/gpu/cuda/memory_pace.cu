#include "tests/gpu/cuda/memory_pace.hpp"

#include <vector>

#include "gpu/cuda/buffer.hpp"
#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint32_t most_pieces = 22, ring_bytes = most_pieces * piece_bytes, rounds = 16;
constexpr std::uint32_t own_pieces = 3600;  // of a block's memory, which no other reads
constexpr std::uint32_t row_words = 2176;   // of 16 bytes: 544
constexpr long long settled = 60'000;       // clocks until the pace is even

struct pace_clocks {
  std::uint32_t load, row, fence, megabytes_per_second;
};
struct pace_memory {
  const std::uint8_t* stream;
  const std::uint32_t* row;
  std::uint32_t* words;  // 32 a block: a counter, and one to store to
  pace_clocks* clocks;   // one a block
};

__device__ std::uint64_t nanoseconds() {
  std::uint64_t t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

__global__ void __launch_bounds__(160) pace_kernel(pace_memory m, std::uint32_t pieces) {
  extern __shared__ __align__(128) std::uint8_t ring[];
  __shared__ std::uint64_t full[most_pieces];
  __shared__ volatile bool ends;
  __shared__ volatile std::uint32_t
      sink[128];  // a store waits for its value, and the clock for the store
  if (threadIdx.x == 0) {
    for (std::uint64_t& bar : full) barrier_init(&bar, 1);
    barrier_init_fence();
    ends = false;
  }
  __syncthreads();
  pace_clocks& clocks = m.clocks[blockIdx.x];
  if (threadIdx.x >= 128) {
    if (threadIdx.x > 128 || pieces == 0) return;
    const std::uint8_t* own = m.stream + std::size_t{blockIdx.x} * own_pieces * piece_bytes;
    const std::uint64_t policy = evict_first_policy();
    std::uint32_t asked = 0, landed = 0, stage = 0, phase = 0;
    const auto ask = [&](std::uint32_t at) {
      barrier_expect(full + at, piece_bytes);
      copy_bulk(ring + at * piece_bytes, own + std::size_t{asked} * piece_bytes, piece_bytes,
                full + at, policy);
      ++asked;
    };
    const auto see = [&] {
      barrier_wait(full + stage, phase);
      ++landed;
    };
    const auto advance = [&] {
      if (++stage < pieces) return;
      stage = 0;
      phase ^= 1;
    };
    while (asked < pieces) ask(asked);
    const std::uint64_t begin = nanoseconds();
    for (; !ends && asked < own_pieces; advance()) {
      see();
      ask(stage);
    }
    clocks.megabytes_per_second = static_cast<std::uint32_t>(std::uint64_t{landed} * piece_bytes *
                                                             1000 / (nanoseconds() - begin));
    for (; landed < asked; advance()) see();
    return;
  }
  for (const long long begin = clock64(); clock64() - begin < settled;) {
  }
  long long of_load = 0, of_row = 0, of_fence = 0;
  for (std::uint32_t i = 0; i < rounds; ++i) {
    sync_threads(1, 128);
    long long begin = clock64();
    sink[threadIdx.x] = __ldcg(m.row + (i * 131 + blockIdx.x * 17) % row_words);
    of_load += clock64() - begin;
    sync_threads(1, 128);
    begin = clock64();
    uint4 values[5];
#pragma unroll
    for (std::uint32_t k = 0; k < 5; ++k) {
      values[k] = __ldcg(reinterpret_cast<const uint4*>(m.row) +
                         (threadIdx.x + k * 128 + blockIdx.x * 41) % (row_words / 4));
    }
    std::uint32_t all = 0;
#pragma unroll
    for (const uint4& v : values) all += v.x ^ v.y ^ v.z ^ v.w;
    sink[threadIdx.x] = all;
    sync_threads(1, 128);
    of_row += clock64() - begin;
    if (threadIdx.x != 0) continue;
    begin = clock64();
    std::uint32_t* own = m.words + blockIdx.x * 32;
    own[1] = i;
    __threadfence();
    sink[0] = atomicAdd(own, 1);
    of_fence += clock64() - begin;
  }
  if (threadIdx.x != 0) return;
  clocks.load = static_cast<std::uint32_t>(of_load / rounds);
  clocks.row = static_cast<std::uint32_t>(of_row / rounds);
  clocks.fence = static_cast<std::uint32_t>(of_fence / rounds);
  ends = true;
}

}  // namespace

result<memory_pace> measure_memory_pace(std::uint32_t pieces, std::uint32_t multiprocessors) {
  TROUPE_ASSERT(pieces <= most_pieces);
  const char* doing = "measuring";
  const std::size_t blocks = multiprocessors;
  TROUPE_TRY(auto stream,
             device_buffer<std::uint8_t>::make(blocks * own_pieces * piece_bytes, doing));
  TROUPE_TRY(auto row, device_buffer<std::uint32_t>::make(row_words, doing));
  TROUPE_TRY(auto words, device_buffer<std::uint32_t>::make(blocks * 32, doing));
  TROUPE_TRY(auto clocks, device_buffer<pace_clocks>::make(blocks, doing));
  TROUPE_CHECK(checked(cudaMemset(row.data(), 0, row_words * 4), doing));
  TROUPE_CHECK(checked(cudaMemset(clocks.data(), 0, blocks * sizeof(pace_clocks)), doing));
  TROUPE_CHECK(allow_shared_memory(pace_kernel, ring_bytes, doing));
  memory_pace sum;
  constexpr int runs = 8;
  for (int i = 0; i < runs; ++i) {
    // All of the ring, so that a block has a multiprocessor for itself.
    TROUPE_CHECK(
        launch("pace", pace_kernel, {dim3(multiprocessors), dim3(160), ring_bytes}, nullptr, false,
               pace_memory{stream.data(), row.data(), words.data(), clocks.data()}, pieces));
    std::vector<pace_clocks> all(blocks);
    TROUPE_CHECK(checked(
        cudaMemcpy(all.data(), clocks.data(), blocks * sizeof(pace_clocks), cudaMemcpyDeviceToHost),
        doing));
    for (const pace_clocks& c : all) {
      sum.bytes_per_second += c.megabytes_per_second * 1e6 / runs;
      sum.load_clocks += c.load / double(runs * blocks);
      sum.row_clocks += c.row / double(runs * blocks);
      sum.fence_clocks += c.fence / double(runs * blocks);
    }
  }
  return sum;
}

}  // namespace troupe::gpu::cuda
