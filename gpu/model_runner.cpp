#include "gpu/model_runner.hpp"

#include "gpu/device_registry.hpp"

namespace troupe::gpu {

namespace {

bool wants_cuda(const runner_options& options) {
  return options.device == "cuda" || options.device.starts_with("cuda:");
}

}  // namespace

bool takes_gpu(const runner_options& options) {
#ifdef TROUPE_HAVE_CUDA
  return wants_cuda(options) || (options.device == "auto" && cuda_available());
#else
  return wants_cuda(options);
#endif
}

namespace {

result<void> check_names(const runner_options& options) {
  if (!options.quantization.empty() && options.quantization != "fp8") {
    return fail(ec::invalid_argument,
                "quantization '" + options.quantization + "' is unknown: use fp8");
  }
  if (!wants_cuda(options) && options.device != "auto" && options.device != "cpu") {
    return fail(ec::invalid_argument,
                "device '" + options.device + "' is unknown: use auto, cpu, cuda or cuda:N");
  }
#ifndef TROUPE_HAVE_CUDA
  if (wants_cuda(options)) {
    return fail(
        ec::unsupported,
        "this build has no CUDA device: configure with -DTROUPE_CUDA=ON on a machine with nvcc, "
        "or use --device cpu");
  }
#endif
  return {};
}

result<void> check_host(const runner_options& options) {
  if (options.quantization.empty()) return {};
  return fail(ec::unsupported, "--quantization " + options.quantization +
                                   " is for GPUs: use --device cuda on a machine with an NVIDIA "
                                   "GPU, or a quantized GGUF file on the host");
}

}  // namespace

result<void> check_device(const runner_options& options) {
  TROUPE_CHECK(check_names(options));
#ifdef TROUPE_HAVE_CUDA
  if (wants_cuda(options)) return check_cuda_device(options.device);
#endif
  return takes_gpu(options) ? result<void>() : check_host(options);
}

result<std::unique_ptr<model_runner>> make_runner(std::shared_ptr<const model::loaded_model> model,
                                                  const runner_options& options) {
  TROUPE_ASSERT(model != nullptr);
  TROUPE_CHECK(check_names(options));
  const bool trimmed =
      model->weights.lm_head.exists() && model->weights.lm_head.rows != model->config.vocab_size;
  if (wants_cuda(options) && trimmed)
    return fail(ec::unsupported,
                "the model's output is of some tokens only, which GPUs do not run: use --device "
                "cpu, or a draft without --vocab");
#ifdef TROUPE_HAVE_CUDA
  if (takes_gpu(options) && !trimmed) {
    runner_options chosen = options;
    if (options.device == "auto") chosen.device = "cuda";
    return make_cuda_runner(std::move(model), chosen);
  }
#endif
  TROUPE_CHECK(check_host(options));
  if (!model->synthetic.empty())
    return fail(ec::unsupported, "the synthetic model " + model->synthetic +
                                     " has weights on GPUs only: use --device cuda on a machine "
                                     "with an NVIDIA GPU");
  return make_host_runner(std::move(model), options);
}

}  // namespace troupe::gpu
