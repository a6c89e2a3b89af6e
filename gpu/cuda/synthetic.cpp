#include "gpu/cuda/synthetic.hpp"

#include "gpu/cuda/runner.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint64_t seed = 1;

model::model_config llama(std::string_view name, std::uint32_t layers, std::uint32_t hidden,
                          std::uint32_t intermediate, std::uint32_t heads) {
  model::model_config c;
  c.architecture = "llama";
  c.name = name;
  c.vocab_size = 128256;
  c.hidden_size = hidden;
  c.intermediate_size = intermediate;
  c.num_hidden_layers = layers;
  c.num_attention_heads = heads;
  c.num_key_value_heads = 8;
  c.head_dim = 128;
  c.max_position_embeddings = 32768;
  c.rope.theta = 500000.0f;
  c.rope.dimensions = 128;
  return c;
}

}  // namespace

result<model::model_config> synthetic_config(std::string_view name) {
  if (name == "llama-3-8b") return llama(name, 32, 4096, 14336, 32);
  if (name == "llama-3-70b-slice") return llama(name, 8, 8192, 28672, 64);
  if (name == "tiny") {
    model::model_config c = llama(name, 2, 512, 1024, 8);
    c.num_key_value_heads = 2;
    c.head_dim = 64;
    c.rope.dimensions = 64;
    c.vocab_size = 1000;
    return c;
  }
  return fail(ec::invalid_argument, "there is no synthetic model '" + std::string(name) +
                                        "'; use llama-3-8b, llama-3-70b-slice or tiny");
}

result<std::unique_ptr<model_runner>> make_synthetic_runner(std::string_view name,
                                                            const runner_options& options) {
  TROUPE_TRY(const device_info device,
             open_device(options.device == "auto" ? "cuda" : options.device));
  const bool packed = name.ends_with(":q4");
  if (packed) name.remove_suffix(3);
  TROUPE_TRY(const model::model_config config, synthetic_config(name));
  TROUPE_CHECK(check_supported(config, options));
  TROUPE_TRY(device_weights weights, synthesize_weights(config, packed, seed, cudaStreamLegacy));
  return make_runner_over(device, config, std::move(weights), options);
}

}  // namespace troupe::gpu::cuda
