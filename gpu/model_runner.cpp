#include "gpu/model_runner.hpp"

#include "gpu/device_registry.hpp"

namespace troupe::gpu {

result<std::unique_ptr<model_runner>> make_runner(std::shared_ptr<const model::loaded_model> model,
                                                  const runner_options& options) {
  TROUPE_ASSERT(model != nullptr);
  if (!options.quantization.empty() && options.quantization != "fp8") {
    return fail(ec::invalid_argument,
                "quantization '" + options.quantization + "' is unknown: use fp8");
  }
  const bool wants_cuda = options.device == "cuda" || options.device.starts_with("cuda:");
  if (!wants_cuda && options.device != "auto" && options.device != "cpu") {
    return fail(ec::invalid_argument,
                "device '" + options.device + "' is unknown: use auto, cpu, cuda or cuda:N");
  }
  const bool trimmed =
      model->weights.lm_head.exists() && model->weights.lm_head.rows != model->config.vocab_size;
  if (wants_cuda && trimmed)
    return fail(ec::unsupported,
                "the model's output is of some tokens only, which GPUs do not run: use --device "
                "cpu, or a draft without --vocab");
#ifdef TROUPE_HAVE_CUDA
  if (wants_cuda) return make_cuda_runner(std::move(model), options);
  if (options.device == "auto" && !trimmed && cuda_available()) {
    runner_options chosen = options;
    chosen.device = "cuda";
    return make_cuda_runner(std::move(model), chosen);
  }
#else
  if (wants_cuda) {
    return fail(
        ec::unsupported,
        "this build has no CUDA device: configure with -DTROUPE_CUDA=ON on a machine with nvcc, "
        "or use --device cpu");
  }
#endif
  if (!options.quantization.empty()) {
    return fail(ec::unsupported,
                "--quantization " + options.quantization +
                    " is for GPUs: use --device cuda on a machine with an NVIDIA GPU, or a "
                    "quantized GGUF file on the host");
  }
  if (!model->synthetic.empty())
    return fail(ec::unsupported, "the synthetic model " + model->synthetic +
                                     " has weights on GPUs only: use --device cuda on a machine "
                                     "with an NVIDIA GPU");
  return make_host_runner(std::move(model), options);
}

}  // namespace troupe::gpu
