// How a node's engine is set up, as flags say it.
#pragma once

#include <chrono>
#include <cstdint>

#include "engine/speculation.hpp"

namespace troupe::actors {

struct engine_settings {
  std::uint32_t max_model_len = 0;  // 0: the model's context
  // 0: what suits the device (sized_for).
  std::uint32_t max_num_seqs = 0, max_num_batched_tokens = 0;
  std::uint32_t max_prefill_chunk = 0;  // rounded to blocks
  std::uint64_t kv_memory_bytes = 0;    // 0: a fifth of the free memory, at most 1 GiB
  std::uint32_t num_kv_blocks = 0;      // 0: from kv_memory_bytes
  std::uint32_t max_waiting = 256;
  std::chrono::milliseconds inter_token_target{50};
  std::chrono::milliseconds lease{30'000};
  bool prefix_caching = true;
  engine::speculation_options speculation;
};

struct step_sizes {
  std::uint32_t seqs, batched_tokens, prefill_chunk;
};
// A GPU needs some thousand tokens a step to be busy; on a host's cores a step of as many would take seconds.
inline constexpr step_sizes host_steps{64, 512, 256}, gpu_steps{256, 2048, 2048};
constexpr const step_sizes& usual_steps(bool on_gpu) {
  return on_gpu ? gpu_steps : host_steps;
}

// The same with no step's size left open. One that is given bounds those that are not.
engine_settings sized_for(engine_settings settings, bool on_gpu, std::uint32_t block_tokens);

}  // namespace troupe::actors
