// Kernel launches: with programmatic dependent launch, a kernel's blocks may start, and prefetch weights, while the
// kernel before it still runs; each waits for it by wait_for_previous_kernel before it touches what that one made.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "gpu/cuda/status.hpp"

namespace troupe::gpu::cuda {

struct launch_shape {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  std::uint32_t cluster = 1;  // blocks side by side that share memory
};

// `early`: false for the first kernel after something that is not a kernel.
template <class... Parameters, class... Arguments>
result<void> launch(const char* name, void (*kernel)(Parameters...), const launch_shape& shape,
                    cudaStream_t stream, bool early, Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (early) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {shape.cluster, 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return checked(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), name);
}

// CUDA loads a kernel when it is first used, and then waits for what else it does for the process: for 0.2 s while a peer's memory is
// opened (60 GB). So a device loads what requests need when it starts.
template <class... Kernels>
result<void> load_kernels(const char* name, Kernels*... kernels) {
  cudaFuncAttributes ignored{};
  result<void> done;
  ((done = done ? checked(cudaFuncGetAttributes(&ignored, kernels), name) : done), ...);
  return done;
}

// Kernels that take more than 48 KiB must say so once a device; it loads them, too.
template <class Kernel>
result<void> allow_shared_memory(Kernel* kernel, std::size_t bytes, const char* name) {
  return checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(bytes)),
                 name);
}

}  // namespace troupe::gpu::cuda
