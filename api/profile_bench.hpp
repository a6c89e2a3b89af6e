// Measures what capacity planning wants to know of a device and a model (actors/capacity/profile.hpp), by the steps of a
// whole engine: scheduling, the pass, sampling. One thread.
#pragma once

#include <memory>

#include "actors/capacity/profile.hpp"
#include "api/config.hpp"
#include "gpu/model_runner.hpp"
#include "model/model.hpp"

namespace troupe::api {

struct profile_bench_options {
  std::uint32_t repetitions = 5;
  std::uint32_t max_batch_tokens = 0;  // rows of one pass; the runner's
  std::uint32_t max_decodes = 0;
  std::uint32_t context = 0;  // at which the cost of context is measured
};

// All but the link's figures and names.
result<actors::device_profile> bench_profile(gpu::model_runner& runner,
                                             const model::model_config& model,
                                             const profile_bench_options& options);

// Measures, and writes c.profile; the exit code of the command. REQUIRES: no other threads yet.
int write_profile(const bench_engine_config& c, std::shared_ptr<const model::loaded_model> m,
                  const std::string& model_name);

}  // namespace troupe::api
