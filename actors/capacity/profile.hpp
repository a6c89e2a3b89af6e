// How long a device takes for a pass and a link for a pull, as measured by `troupe bench engine --profile`: what
// capacity planning knows of hardware. Plain values.
//
// A pass is a base that depends on its rows (weights are read once, so few rows cost about as much as one) and the
// reading of KV, which grows with context:
//
//   seconds = prompt(rows) + max(0, decode(decodes) - prompt(decodes))
//           + prompt_context * sum over chunks of rows * tokens before the chunk
//           + decode_context * sum over decodes of tokens before it
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "gpu/batch.hpp"

namespace troupe::actors {

struct rows_seconds {
  double rows = 0, seconds = 0;
};

struct device_profile {
  std::string name, source;   // what was measured, and by whom
  std::string model, device;  // for people
  bool on_gpu = false;        // which steps are as large as a node's would be (engine_settings)
  std::vector<rows_seconds> prompt,
      decode;  // by rows, ascending; between and beyond: straight lines
  double prompt_context_seconds = 0, decode_context_seconds = 0;
  double turn_seconds = 0;  // of the node beside each pass: scheduling, sampling, messages

  std::uint32_t block_tokens = 16;
  std::uint64_t block_bytes = 0;  // of one KV block, on the link
  std::uint32_t num_blocks = 0;   // of a node's arena
  std::uint32_t max_model_len = 0;

  double link_bytes_per_second = 0, link_latency_seconds = 0;  // of pulls
  double message_seconds = 0;                                  // from actor to actor
  double request_seconds = 0;                                  // of the door: parsing, tokenizing

  double pass_seconds(std::span<const gpu::sequence_rows> rows) const;
};

// ec::invalid_argument names the field.
result<void> validate(const device_profile& p);

}  // namespace troupe::actors
