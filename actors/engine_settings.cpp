#include "actors/engine_settings.hpp"

#include <algorithm>

namespace troupe::actors {

engine_settings sized_for(engine_settings settings, bool on_gpu, std::uint32_t block_tokens) {
  const step_sizes& usual = usual_steps(on_gpu);
  auto &seqs = settings.max_num_seqs, &tokens = settings.max_num_batched_tokens,
       &chunk = settings.max_prefill_chunk;
  if (seqs == 0) {
    // A step has room for a token of each, and a block of a prompt.
    const std::uint32_t most = tokens > block_tokens ? tokens - block_tokens : 1;
    seqs = tokens == 0 ? usual.seqs : std::min(usual.seqs, most);
  }
  if (tokens == 0) tokens = std::max({usual.batched_tokens, chunk, seqs + block_tokens});
  if (chunk == 0) chunk = std::min(usual.prefill_chunk, tokens);
  return settings;
}

}  // namespace troupe::actors
