// One forward pass over a ragged batch: chunked prefill, packing without padding, decode and
// verification of drafts are the same call with other numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.hpp"

namespace troupe::gpu {

// Consecutive tokens of one sequence. KV of positions [0, first_position) must already be in its
// blocks; the pass writes KV of [first_position, first_position + tokens.size()).
struct sequence_rows {
  std::span<const token_id> tokens;  // [count], count >= 1
  std::uint32_t first_position = 0;
  std::span<const block_id> block_table;  // covers at least first_position + count tokens
  std::uint32_t num_logits = 0;  // logits of the last num_logits rows are returned, <= count
};

struct batch {
  std::span<const sequence_rows> sequences;
  // The caller is content with step_output::argmax; a device that gives it then leaves logits empty.
  bool argmax_suffices = false;

  std::uint32_t num_rows() const {
    std::uint32_t n = 0;
    for (const auto& s : sequences) n += static_cast<std::uint32_t>(s.tokens.size());
    return n;
  }
  std::uint32_t num_logits() const {
    std::uint32_t n = 0;
    for (const auto& s : sequences) n += s.num_logits;
    return n;
  }
};

// Logits in host memory, [num_logits][vocab_size] in the order of the batch, valid until the next
// submit.
struct step_output {
  std::span<const float> logits;
  // The most likely token of each row of logits, ties to the lowest id; empty where the device does
  // not search itself.
  std::span<const token_id> argmax = {};
  // How long the device was at it; 0 where it does not tell.
  double device_seconds = 0;
};

}  // namespace troupe::gpu
