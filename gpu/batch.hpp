// One forward pass over a ragged batch: chunked prefill, packing without padding, decode and
// verification of drafts are the same call with other numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.hpp"
#include "gpu/sampling.hpp"

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
  // What to make of each row of logits, [num_logits] in their order; empty: the caller wants logits. A device may ignore it
  // and give logits: one that does not sample, or has no room for what this batch asks.
  std::span<const row_sampling> sampling = {};

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

// Valid until the next submit. One of the first two is empty.
struct step_output {
  // In host memory, [num_logits][vocab_size] in the order of the batch.
  std::span<const float> logits;
  // [num_logits], of a device that samples itself, was asked to and could.
  std::span<const row_sample> samples = {};
  // How long the device was at it; 0 where it does not tell.
  double device_seconds = 0;
};

}  // namespace troupe::gpu
