// transport/device_memory.hpp for a GPU: copies on lanes of their own, of a lower priority than the forward pass, sums and
// fences by kernels (block_sums.hpp), memory of other processes by CUDA IPC.
//
// A lane is a stream with room for the results of one batch. What a batch becomes is `way`; several lanes hide what each of
// its parts waits for. Made with the runner; lives until the fabric and the engine let go of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "gpu/cuda/block_copy.hpp"
#include "gpu/cuda/buffer.hpp"
#include "gpu/cuda/device.hpp"
#include "transport/device_memory.hpp"

namespace troupe::gpu::cuda {

// How a batch's blocks are copied. The first three by copy engines: a copy a block; a copy for each run of blocks adjacent
// at both ends; all of these handed over by one call. The last two by a kernel (block_copy.hpp), sums by another or by
// the same. Memory that is pinned, or no whole blocks, goes by copy engines always.
enum class copy_way : std::uint8_t { plain, coalesced, batched, kernel, fused };

struct device_memory_options {
  // Two: more reach 90 % of the link instead of 86 %, but take so many multiprocessors that decode steps beside them
  // last half as long again.
  unsigned lanes = 2;
  copy_way way = copy_way::fused;
  copy_grid grid{16, 256};
  bool polled = true;  // poll() tells of ends; else CUDA's thread does, later
};
// "plain", "coalesced", "batched", "kernel:16x256", "fused:16x256"; figures choose by it.
result<device_memory_options> parse_copy_way(std::string_view text);

class gpu_memory : public transport::device_memory {
 public:
  static result<std::shared_ptr<gpu_memory>> make(const device_info& device,
                                                  const device_memory_options& options = {});

  // Memory that peers may read, until the last of owner and readers in this process lets it go.
  virtual result<std::span<std::byte>> allocate(std::size_t bytes, const char* purpose) = 0;
  // What the stream does from here on comes after every invalidation and copy_here asked for so far.
  virtual result<void> wait_for_fences(cudaStream_t stream) = 0;
  // Another thread opens or closes a peer's memory now, for as long as 7 ms a GB: what allocates, a graph's making too, waits for it.
  // Any thread.
  virtual bool is_mapping() const = 0;
};

}  // namespace troupe::gpu::cuda
