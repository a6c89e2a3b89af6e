// What is asked, and the answers of a machine on which nothing fails: the yardstick of every schedule.
#pragma once

#include "actors/messages.hpp"
#include "engine/generation.hpp"
#include "gpu/model_runner.hpp"
#include "model/model.hpp"
#include "tests/simulation/scenario.hpp"

namespace troupe::simulation {

// The tiny model that every node serves; made once a process.
std::shared_ptr<const model::loaded_model> served_model();
std::unique_ptr<gpu::model_runner> make_device(device_kind kind, std::uint32_t block_tokens,
                                               const gpu::runner_options& options,
                                               std::uint32_t other_percent = 0);  // see hash_runner

std::vector<token_id> prompt_of(const request& r);
engine::sampling_params sampling_of(const request& r);

struct answer {
  std::vector<token_id> tokens;
  engine::finish_reason reason = engine::finish_reason::none;
};
// Computed alone on an engine of its own; remembered.
const answer& expected_answer(device_kind device, std::uint32_t block_tokens, const request& r);

}  // namespace troupe::simulation
