// Checksums and fences of KV blocks in device memory: XXH3-64, the same sum as the host's (transport/checksum.hpp), so
// that either verifies the other's blocks. A thread block sums one KV block: XXH3 adds up stripes within 1,024 bytes, in
// any order, and chains these parts, in order; so 256 threads sum parts while one warp chains those before.
//
// Stateless; the thread that owns the stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.hpp"

namespace troupe::gpu::cuda {

inline constexpr std::size_t max_summed_blocks = 48;  // of one launch
inline constexpr std::size_t max_invalidated_blocks = 256;

// Once a device.
result<void> prepare_block_sums();

// What a block's payload sums up to, and the 64 bytes after it.
struct block_sum {
  std::uint64_t sum;
  std::uint64_t fence[8];
};

// REQUIRES: payload_bytes a multiple of 64 and more than 240, blocks aligned to 16, at most max_summed_blocks.
// `out`: memory that the device can write, one entry a block.
result<void> sum_blocks(std::span<const std::byte* const> blocks, std::size_t payload_bytes,
                        block_sum* out, cudaStream_t stream);

// Writes each block's fence: the image, completed by the payload's sum and the fence's own.
struct block_seal {
  std::byte* block;
  std::uint64_t image[8];
};
result<void> seal_blocks(std::span<const block_seal> seals, std::size_t payload_bytes,
                         cudaStream_t stream);

// Stores `mark` at each place.
result<void> store_marks(std::span<std::byte* const> places, std::uint64_t mark,
                         cudaStream_t stream);

}  // namespace troupe::gpu::cuda
