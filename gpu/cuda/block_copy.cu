#include <algorithm>

#include "gpu/cuda/block_copy.hpp"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/xxh3.cuh"

namespace troupe::gpu::cuda {
namespace {

constexpr unsigned parts_per_unit = 8, unit_bytes = parts_per_unit * part_bytes;
constexpr unsigned units_per_look = 8, parts_per_look = units_per_look * parts_per_unit;
constexpr unsigned parts_ahead = 16;
constexpr std::size_t fence = 64;
constexpr std::size_t scratch_units = std::size_t{16} << 10;  // 128 MiB of blocks, 8 MiB of sums

struct copy_list {
  block_copy blocks[max_summed_blocks];
};
struct copy_work {
  std::uint64_t bytes;  // of a block, fence included
  std::uint32_t blocks, units, parts, copiers;
  std::uint64_t* sums;                          // [blocks][units][8 parts][8 lanes]
  std::uint32_t *ready, *started, first, turn;  // ready: [blocks][units]
  block_sum* out;
};

// A unit that is whole: every load of a warp is 512 bytes in a row, half a part. Thread: 16 bytes, one pair of XXH3's
// lanes of one stripe in eight.
template <bool kStore, bool kSum>
__device__ void take_unit(const std::byte* from, std::byte* to, unsigned thread,
                          const std::uint64_t* secret, std::uint64_t* sums) {
  const auto* source = reinterpret_cast<const ulonglong2*>(from) + thread;
  ulonglong2 values[2 * parts_per_unit];
#pragma unroll
  for (unsigned j = 0; j < 2 * parts_per_unit; ++j) values[j] = __ldcg(source + 32 * j);
  if constexpr (kStore) {
    auto* target = reinterpret_cast<ulonglong2*>(to) + thread;
#pragma unroll
    for (unsigned j = 0; j < 2 * parts_per_unit; ++j) __stcg(target + 32 * j, values[j]);
  }
  if constexpr (kSum) {
    const unsigned stripe = thread / 4, pair = thread % 4;
    std::uint64_t even[parts_per_unit], odd[parts_per_unit];
#pragma unroll
    for (unsigned p = 0; p < parts_per_unit; ++p) {
      even[p] = odd[p] = 0;
#pragma unroll
      for (unsigned half = 0; half < 2; ++half) {
        const ulonglong2 v = values[2 * p + half];
        const std::uint64_t* key = secret + 8 * half + stripe + 2 * pair;
        even[p] += low_times_high(v.x ^ key[0]) + v.y;
        odd[p] += low_times_high(v.y ^ key[1]) + v.x;
      }
    }
    // Eight threads hold a share of each of eight parts: they swap until each has one part whole.
#pragma unroll
    for (unsigned half = 4; half > 0; half /= 2) {
      const bool upper = (thread & (4 * half)) != 0;
#pragma unroll
      for (unsigned p = 0; p < half; ++p) {
        const std::uint64_t give_even = upper ? even[p] : even[p + half];
        const std::uint64_t give_odd = upper ? odd[p] : odd[p + half];
        even[p] = (upper ? even[p + half] : even[p]) + __shfl_xor_sync(~0u, give_even, 4 * half);
        odd[p] = (upper ? odd[p + half] : odd[p]) + __shfl_xor_sync(~0u, give_odd, 4 * half);
      }
    }
    __stcg(reinterpret_cast<ulonglong2*>(sums + 8 * stripe) + pair,
           make_ulonglong2(even[0], odd[0]));
  }
}

// The last unit of a block, as far as it goes.
template <bool kStore, bool kSum>
__device__ void take_rest(const block_copy& block, const copy_work& work, unsigned unit,
                          unsigned thread, const std::uint64_t* secret, std::uint64_t* sums) {
  if constexpr (kStore) {
    for (std::uint64_t at = std::uint64_t{unit} * unit_bytes + 16 * thread; at < work.bytes;
         at += 512)
      __stcg(reinterpret_cast<ulonglong2*>(block.to + at),
             __ldcg(reinterpret_cast<const ulonglong2*>(block.from + at)));
    __syncwarp();
  }
  if constexpr (kSum) {
    const unsigned stripe = thread / 4, part = unit * parts_per_unit + stripe;
    if (part < work.parts)
      add_part(block.to + std::uint64_t{part} * part_bytes, thread % 4, secret, sums + 8 * stripe);
  }
}

// Eight threads a block chain its parts as they come; the four blocks of a warp go in step.
__device__ void chain_parts(const copy_list& list, const copy_work& work, unsigned warp,
                            unsigned thread) {
  if (4 * warp >= work.blocks) return;
  const unsigned group = thread / 8, lane = thread % 8, wanted = 4 * warp + group;
  const unsigned block = min(wanted, work.blocks - 1);
  const volatile std::uint32_t* ready = work.ready + std::uint64_t{block} * work.units;
  const std::uint64_t* sums = work.sums + std::uint64_t{block} * work.units * parts_per_unit * 8;
  const std::uint64_t key = secret_at(192 - stripe_bytes + 8 * lane);
  std::uint64_t lanes = first_lane(lane);
  const auto add = [&](std::uint64_t part) {
    lanes += part;
    lanes = (lanes ^ (lanes >> 47) ^ key) * prime32_1;
  };
  for (unsigned unit = 0; unit < work.units; unit += units_per_look) {
    const bool looks = unit + lane < work.units;
    while (__any_sync(~0u, looks && ready[unit + lane] != work.turn)) __nanosleep(64);
    __threadfence();
    const unsigned first = unit * parts_per_unit;
    const std::uint64_t* at = sums + std::uint64_t{first} * 8 + lane;
    if (first >= work.parts) continue;
    const unsigned count = min(parts_per_look, work.parts - first);
    const auto part = [&](unsigned i) { return __ldcg(at + 8 * min(i, count - 1)); };
    std::uint64_t now[parts_ahead], next[parts_ahead];
#pragma unroll
    for (unsigned i = 0; i < parts_ahead; ++i) next[i] = part(i);
#pragma unroll 1
    for (unsigned some = 0; some < count; some += parts_ahead) {
#pragma unroll
      for (unsigned i = 0; i < parts_ahead; ++i) now[i] = next[i];
#pragma unroll
      for (unsigned i = 0; i < parts_ahead; ++i) next[i] = part(some + parts_ahead + i);
      if (some + parts_ahead <= count) {
#pragma unroll
        for (unsigned i = 0; i < parts_ahead; ++i) add(now[i]);
      } else {
#pragma unroll
        for (unsigned i = 0; i < parts_ahead; ++i)
          if (some + i < count) add(now[i]);
      }
    }
  }
  const std::byte* data = list.blocks[block].to;
  const std::uint64_t payload = work.bytes - fence;
  const std::uint64_t sum = finish(lanes, data, payload, lane, 0xFFu << (8 * group));
  if (wanted != block) return;
  if (lane == 0) work.out[block].sum = sum;
  work.out[block].fence[lane] =
      __ldcg(reinterpret_cast<const std::uint64_t*>(data + payload) + lane);
}

template <bool kStore, bool kSum>
__global__ void __launch_bounds__(256, 2)
    copy_kernel(const __grid_constant__ copy_list list, const __grid_constant__ copy_work work) {
  __shared__ std::uint64_t secret[secret_words];
  __shared__ std::uint32_t role;
  if (threadIdx.x < secret_words) secret[threadIdx.x] = secret_at(8 * threadIdx.x);
  if (threadIdx.x == 0) role = kSum ? atomicAdd(work.started, 1) - work.first : blockIdx.x;
  __syncthreads();
  const unsigned warps = blockDim.x / 32, warp = threadIdx.x / 32, thread = threadIdx.x % 32;
  if (kSum && role >= work.copiers)
    return chain_parts(list, work, (role - work.copiers) * warps + warp, thread);
  const unsigned all = work.units * work.blocks;
  for (unsigned i = role * warps + warp; i < all; i += work.copiers * warps) {
    const unsigned unit = i / work.blocks, block = i % work.blocks;
    const block_copy& b = list.blocks[block];
    const std::uint64_t at = std::uint64_t{unit} * unit_bytes;
    const std::uint64_t index = std::uint64_t{block} * work.units + unit;
    std::uint64_t* sums = work.sums + index * (parts_per_unit * 8);
    if (at + unit_bytes <= work.bytes)
      take_unit<kStore, kSum>((kStore ? b.from : b.to) + at, b.to + at, thread, secret, sums);
    else
      take_rest<kStore, kSum>(b, work, unit, thread, secret, sums);
    if constexpr (kSum) {
      __syncwarp();
      if (thread == 0) {
        __threadfence();
        *const_cast<volatile std::uint32_t*>(work.ready + index) = work.turn;
      }
    }
  }
}

std::size_t units_of(std::size_t bytes) {
  return (bytes + unit_bytes - 1) / unit_bytes;
}

copy_list list_of(std::span<const block_copy> blocks) {
  TROUPE_ASSERT(!blocks.empty() && blocks.size() <= max_summed_blocks);
  copy_list list{};
  std::copy(blocks.begin(), blocks.end(), list.blocks);
  return list;
}

copy_work work_of(std::span<const block_copy> blocks, std::size_t bytes, copy_grid grid) {
  TROUPE_ASSERT(bytes % 16 == 0 && grid.threads % 32 == 0 && grid.threads <= 256);
  copy_work work{};
  work.bytes = bytes;
  work.blocks = static_cast<std::uint32_t>(blocks.size());
  work.units = static_cast<std::uint32_t>(units_of(bytes));
  work.copiers = std::min(grid.thread_blocks, work.blocks * work.units);
  return work;
}

template <bool kStore>
result<void> run_summed(std::span<const block_copy> blocks, std::size_t bytes, copy_grid grid,
                        copy_scratch& scratch, block_sum* out, cudaStream_t stream) {
  const std::size_t payload = bytes - fence;
  TROUPE_ASSERT(payload % stripe_bytes == 0 && payload > 240);
  TROUPE_ASSERT(blocks.size() <= scratch.blocks_at_once(bytes));
  copy_work work = work_of(blocks, bytes, grid);
  work.parts = static_cast<std::uint32_t>((payload - 1) / part_bytes);
  work.sums = scratch.parts.data();
  work.started = scratch.ready.data();
  work.ready = work.started + 1;
  work.first = scratch.started;
  work.turn = ++scratch.turn;
  work.out = out;
  const unsigned chained = grid.threads / 32 * 4;  // blocks that a thread block chains
  const unsigned all = work.copiers + (work.blocks + chained - 1) / chained;
  TROUPE_CHECK(launch("copying and summing blocks", copy_kernel<kStore, true>,
                      {dim3(all), dim3(grid.threads)}, stream, false, list_of(blocks), work));
  scratch.started += all;
  return {};
}

}  // namespace

result<void> prepare_block_copy() {
  return load_kernels("preparing copies of blocks", copy_kernel<true, false>,
                      copy_kernel<true, true>, copy_kernel<false, true>);
}

result<copy_scratch> copy_scratch::make() {
  copy_scratch made;
  TROUPE_TRY(made.parts, device_buffer<std::uint64_t>::make(scratch_units * parts_per_unit * 8,
                                                            "sums of blocks"));
  TROUPE_TRY(made.ready, device_buffer<std::uint32_t>::make(scratch_units + 1, "sums of blocks"));
  return made;
}

std::size_t copy_scratch::blocks_at_once(std::size_t bytes) const {
  return std::min(max_summed_blocks, scratch_units / units_of(bytes));
}

result<void> copy_blocks(std::span<const block_copy> blocks, std::size_t bytes, copy_grid grid,
                         cudaStream_t stream) {
  const copy_work work = work_of(blocks, bytes, grid);
  return launch("copying blocks", copy_kernel<true, false>,
                {dim3(work.copiers), dim3(grid.threads)}, stream, false, list_of(blocks), work);
}

result<void> copy_and_sum_blocks(std::span<const block_copy> blocks, std::size_t bytes,
                                 copy_grid grid, copy_scratch& scratch, block_sum* out,
                                 cudaStream_t stream) {
  return run_summed<true>(blocks, bytes, grid, scratch, out, stream);
}

result<void> sum_blocks_in_place(std::span<const block_copy> blocks, std::size_t bytes,
                                 copy_grid grid, copy_scratch& scratch, block_sum* out,
                                 cudaStream_t stream) {
  return run_summed<false>(blocks, bytes, grid, scratch, out, stream);
}

}  // namespace troupe::gpu::cuda
