// A small random model and its forward pass in double, without a single shortcut, for runner tests.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "model/model.hpp"

namespace troupe::gpu::cuda {

struct reference_options {
  std::uint32_t layers = 2, hidden = 256, intermediate = 512, heads = 4, kv_heads = 2,
                head_dim = 64, vocab = 500;
  bool interleaved = true, bias = false, qk_norm = false, tied = false;
  std::uint32_t max_positions = 4096;
};
// Weights are bf16 values, so that the device holds exactly the same ones.
std::shared_ptr<const model::loaded_model> make_random_model(const reference_options& options,
                                                             std::mt19937& random);

// Logits of every token of one sequence: [tokens][vocab].
std::vector<double> reference_logits(const model::loaded_model& model,
                                     const std::vector<std::uint32_t>& tokens);

}  // namespace troupe::gpu::cuda
