// transport/device_memory.hpp for a GPU: copies on lanes of their own, of a lower priority than the forward pass, sums and
// fences by kernels (block_sums.hpp), memory of other processes by CUDA IPC.
//
// A lane is a stream with room for the results of one batch: copies by the copy engines, then one kernel that sums what
// arrived, then a host function that tells its end. Several lanes hide what each of these waits for. Made with the
// runner; lives until the fabric and the engine let go of it.
#pragma once

#include <memory>

#include "gpu/cuda/buffer.hpp"
#include "gpu/cuda/device.hpp"
#include "transport/device_memory.hpp"

namespace troupe::gpu::cuda {

struct device_memory_options {
  unsigned lanes = 8;
};

class gpu_memory : public transport::device_memory {
 public:
  static result<std::shared_ptr<gpu_memory>> make(const device_info& device,
                                                  const device_memory_options& options = {});

  // Memory that peers may read, until the last of owner and readers in this process lets it go.
  virtual result<std::span<std::byte>> allocate(std::size_t bytes, const char* purpose) = 0;
  // What the stream does from here on comes after every invalidation asked for so far.
  virtual result<void> wait_for_fences(cudaStream_t stream) = 0;
};

}  // namespace troupe::gpu::cuda
