// Devices that make_runner chooses among. A device that needs its own toolkit lives in its own
// library and gives one function here; nothing above includes its headers. Any thread.
#pragma once

#include <memory>

#include "base/result.hpp"
#include "gpu/model_runner.hpp"

namespace troupe::gpu {

// gpu/host: any x86-64 (or other) CPU.
result<std::unique_ptr<model_runner>> make_host_runner(
    std::shared_ptr<const model::loaded_model> model, const runner_options& options);

// gpu/cuda: defined there, called only in a build with TROUPE_HAVE_CUDA. `options.device` is "cuda"
// or "cuda:N".
result<std::unique_ptr<model_runner>> make_cuda_runner(
    std::shared_ptr<const model::loaded_model> model, const runner_options& options);
// That one is there and this build has kernels for it.
result<void> check_cuda_device(const std::string& device);
// A CUDA device is there and usable. Never fails loudly: no driver means false.
bool cuda_available();

}  // namespace troupe::gpu
