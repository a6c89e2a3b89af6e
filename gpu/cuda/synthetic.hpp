// A runner over weights that the device makes itself: model/synthetic.hpp.
#pragma once

#include <memory>
#include <string_view>

#include "gpu/model_runner.hpp"

namespace troupe::gpu::cuda {

result<std::unique_ptr<model_runner>> make_synthetic_runner(std::string_view name,
                                                            const runner_options& options);

}  // namespace troupe::gpu::cuda
