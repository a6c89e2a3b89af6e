#include "gpu/cuda/synthetic.hpp"

#include "gpu/cuda/runner.hpp"
#include "model/synthetic.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint64_t seed = 1;

}  // namespace

result<std::unique_ptr<model_runner>> make_synthetic_runner(std::string_view name,
                                                            const runner_options& options) {
  TROUPE_TRY(const device_info device,
             open_device(options.device == "auto" ? "cuda" : options.device));
  TROUPE_TRY(const model::model_config config, model::synthetic_config(name));
  TROUPE_CHECK(check_supported(config, options));
  const synthetic_weights kind = model::synthetic_is_packed(name) ? synthetic_weights::q4
                                 : model::synthetic_is_fp8(name) || options.quantization == "fp8"
                                     ? synthetic_weights::fp8
                                     : synthetic_weights::bf16;
  TROUPE_TRY(device_weights weights, synthesize_weights(config, kind, seed, cudaStreamLegacy));
  return make_runner_over(device, config, std::move(weights), options);
}

}  // namespace troupe::gpu::cuda
