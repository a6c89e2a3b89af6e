// CUDA's return codes as result<T>: what failed, and what its reader can do about it.
#pragma once

#include <cuda_runtime.h>

#include <string_view>

#include "base/result.hpp"

namespace troupe::gpu::cuda {

// `doing` completes "while ...": "allocating 2 GiB for weights".
result<void> checked(cudaError_t code, std::string_view doing);

// The error of a kernel launch just made.
inline result<void> check_launch(std::string_view kernel) {
  return checked(cudaPeekAtLastError(), kernel);
}

}  // namespace troupe::gpu::cuda
