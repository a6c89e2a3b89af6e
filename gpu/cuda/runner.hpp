// The CUDA device: model_runner over forward_pass, with decode steps replayed as CUDA graphs.
//
// A batch of decode rows is padded to the next of a few sizes, and the launches of a size are captured once, when it is
// first seen; within a step nothing is allocated and nothing waits for the GPU but collect. Owner and thread: the engine.
#pragma once

#include <memory>

#include "gpu/cuda/device.hpp"
#include "gpu/cuda/weights.hpp"
#include "gpu/model_runner.hpp"

namespace troupe::gpu::cuda {

// A runner over weights that are on the device already: of a file, or synthetic.
result<std::unique_ptr<model_runner>> make_runner_over(const device_info& device,
                                                       const model::model_config& config,
                                                       device_weights weights,
                                                       const runner_options& options);

// ec::unsupported names what about the model the kernels do not do.
result<void> check_supported(const model::model_config& config, const runner_options& options);

}  // namespace troupe::gpu::cuda
