// KV blocks copied by a kernel on a few multiprocessors, from memory that the GPU can read, a peer's over NVLink included,
// and summed on the way: one launch for many blocks wherever they lie, one read of the link, and block_sums' result.
//
// A copy engine needs microseconds a copy besides the bytes, as much as a block of 2 MiB takes. Here warps take units of
// 8 KiB, the same part of every block before the next part of any, and add up their XXH3 parts; one thread block more
// chains the parts as they come. It takes its role by the order in which thread blocks start, so that it never waits for
// one that has no room.
//
// Stateless but for `copy_scratch`, which belongs to one stream; the thread that owns the stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "gpu/cuda/block_sums.hpp"
#include "gpu/cuda/buffer.hpp"

namespace troupe::gpu::cuda {

struct block_copy {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
};

struct copy_grid {
  unsigned thread_blocks = 16,
           threads = 256;  // threads: a multiple of 32, at least 32 and at most 256
};

struct copy_scratch {
  static result<copy_scratch> make();
  // As many blocks as one launch can sum; 0: block is too large.
  std::size_t blocks_at_once(std::size_t bytes) const;

  device_buffer<std::uint64_t> parts;
  device_buffer<std::uint32_t> ready;  // the first word counts thread blocks
  std::uint32_t turn = 0, started = 0;
};

// Once a device.
result<void> prepare_block_copy();

// Whole blocks of `bytes` each, fence included. REQUIRES: addresses and bytes multiples of 16, at most max_summed_blocks.
result<void> copy_blocks(std::span<const block_copy> blocks, std::size_t bytes, copy_grid grid,
                         cudaStream_t stream);
// The same, and sums. REQUIRES: payloads (bytes - 64) as sum_blocks wants them, at most blocks_at_once(bytes) blocks.
result<void> copy_and_sum_blocks(std::span<const block_copy> blocks, std::size_t bytes,
                                 copy_grid grid, copy_scratch& scratch, block_sum* out,
                                 cudaStream_t stream);
// Sums of blocks that are in place, `to`; `from` is not read.
result<void> sum_blocks_in_place(std::span<const block_copy> blocks, std::size_t bytes,
                                 copy_grid grid, copy_scratch& scratch, block_sum* out,
                                 cudaStream_t stream);

}  // namespace troupe::gpu::cuda
