// Speed of a device alone, as llama-bench measures it: tokens a second of reading a prompt, of writing one sequence, of
// writing several together. Tokenizing and sampling are left out. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "gpu/model_runner.hpp"
#include "model/model.hpp"

namespace troupe::api {

struct engine_test {
  std::uint32_t prompt = 0, generate = 0, parallel = 1;
  std::uint32_t depth = 0;   // tokens of every sequence that are read before, outside the time
  std::string name() const;  // "pp512", "tg128", "tg128 x16", "tg128 @ d4096"
};

struct engine_speed {
  engine_test test;
  double mean = 0, deviation = 0;  // tokens a second
};

result<std::vector<engine_speed>> bench_engine(gpu::model_runner& runner,
                                               const model::model_config& model,
                                               const std::vector<engine_test>& tests,
                                               std::uint32_t repetitions,
                                               std::uint32_t max_batch_tokens);

}  // namespace troupe::api
