// Whole steps of Llama-3-8B's shape with synthetic weights, beside the card's limit.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gpu/model_runner.hpp"

namespace troupe::gpu::cuda {

class llama {
 public:
  // weights: "", ":q4" or ":fp8".
  explicit llama(bool exact, std::uint32_t max_tokens, const std::string& weights = "");
  // Each prints a line. A context that does not fit the card is shortened.
  void decode(std::uint32_t sequences, std::uint32_t context, const row_sampling& how = {},
              const char* what = "decode");
  // Seconds of it, as a server runs: what power leaves of the clocks, the watts, and the joules of a step.
  void sustain(std::uint32_t sequences, std::uint32_t context);
  void prefill(std::uint32_t count);

 private:
  // `counted`: the last ones of `steps`. Returns joules of these, 0 where they are not known.
  double step(std::uint32_t sequences, std::uint32_t context, const row_sampling& how,
              const char* what, std::uint32_t steps, std::uint32_t counted);

  std::unique_ptr<model_runner> runner_;
  std::uint32_t num_blocks_ = 0;
  double weight_bytes_;
  bool fresh_ = true;
  std::vector<block_id> ids_;
};

}  // namespace troupe::gpu::cuda
