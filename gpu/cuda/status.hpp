// CUDA's return codes as result<T>: what failed, and what its reader can do about it. Nothing here needs a GPU. Any thread.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <functional>
#include <string_view>

#include "base/result.hpp"

namespace troupe::gpu::cuda {

// `doing` completes "while ...": "allocating 2 GiB for weights". ec::out_of_memory, unsupported (this machine as it is set
// up), invalid_argument, internal (a bug here), or device_lost: nothing more can be done with the GPU in this process.
result<void> checked(cudaError_t code, std::string_view doing);

// The error of a kernel launch just made.
inline result<void> check_launch(std::string_view kernel) {
  return checked(cudaPeekAtLastError(), kernel);
}

// Asks `state` until it is no longer cudaErrorNotReady, without giving up the processor: passes last milliseconds.
// ec::device_lost: it did not end within the limit.
result<void> wait_for(const std::function<cudaError_t()>& state, std::chrono::milliseconds limit,
                      std::string_view doing);
// The same of all work on a stream before this call, or before an event, within many times what any takes: a GPU that takes
// longer hangs, and its node must leave.
inline constexpr std::chrono::seconds longest_work{60};
result<void> finish(cudaStream_t stream, std::string_view doing);
result<void> finish(cudaEvent_t event, std::string_view doing);

}  // namespace troupe::gpu::cuda
