// Models with the shapes of real ones and seeded random weights, made on the device: to measure without a download.
#pragma once

#include <memory>
#include <string_view>

#include "gpu/model_runner.hpp"

namespace troupe::gpu::cuda {

// "llama-3-8b", "llama-3-70b-slice" (8 of 80 layers), "tiny".
result<model::model_config> synthetic_config(std::string_view name);
// `name` may end in ":q4": weights quantized as in a Q4_K_M file instead of bf16.
result<std::unique_ptr<model_runner>> make_synthetic_runner(std::string_view name,
                                                            const runner_options& options);

}  // namespace troupe::gpu::cuda
