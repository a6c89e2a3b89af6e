// What a client asks of an engine and what comes back, under vLLM's names. Plain values, shared by
// engine, actors and api.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "engine/structured/answer_format.hpp"

namespace troupe::engine {

using clock = std::chrono::steady_clock;
using time_point = clock::time_point;

struct sampling_params {
  float temperature = 1.0f;         // 0: greedy
  float top_p = 1.0f;               // (0, 1]
  std::uint32_t top_k = 0;          // 0: all
  float min_p = 0.0f;               // [0, 1], of the most likely token's probability
  float repetition_penalty = 1.0f;  // > 0, over prompt and output (Keskar et al. 2019)
  float presence_penalty = 0.0f;    // [-2, 2], over output
  float frequency_penalty = 0.0f;   // [-2, 2], over output
  std::vector<std::pair<token_id, float>> logit_bias;  // added before everything else
  // Random numbers are Philox4x32-10 keyed by (seed, sequence_index) at counter (position,
  // purpose), position counting prompt and output: never by slot, step or topology.
  std::uint64_t seed = 0;
  std::uint32_t sequence_index = 0;  // which of n choices
  std::optional<std::uint32_t>
      logprobs;  // report the token's logprob and this many alternatives, <= 20
  std::optional<std::uint32_t>
      prompt_logprobs;  // the same for prompt tokens (echo); such a prompt is computed whole
  std::vector<token_id> stop_token_ids;  // besides the model's end-of-generation tokens
  bool ignore_eos = false;
  std::uint32_t min_tokens = 0;  // end-of-generation and stop tokens are impossible before
  std::uint32_t max_tokens = 16;
  // What form the answer must have. When nothing can follow any more, the answer ends.
  structured::answer_format format;
};
// Of logit_bias and stop_token_ids, which cost time at every token.
inline constexpr std::size_t most_listed_tokens = 1024;
// ec::invalid_argument with the field's name first in the detail ("temperature: must be in [0,
// 2]").
result<void> validate(const sampling_params& p, std::size_t vocab_size);

struct generation_request {
  request_id id{};
  attempt try_number = 0;
  std::vector<token_id> prompt;  // at least one token
  // Tokens already delivered by an earlier attempt: generation goes on after them, with the same
  // random numbers, penalties and limits, so that the text equals the fault-free one.
  std::vector<token_id> output;
  sampling_params sampling;
  std::string cache_salt;  // mixed into block hashes: requests with other salts never share blocks
  std::string tenant;      // only answers of the same tenant and salt are remembered for it
  time_point deadline = time_point::max();
  // Compute the prompt, sample one token, then hold the blocks for a reader until release or end of
  // lease.
  bool prefill_only = false;
  // add_remote: leading blocks come from a KV store, which knows no first token. What it has is here
  // when remote_failed is called, and counts as cached.
  bool from_store = false;
};

struct token_logprob {
  token_id token = 0;
  float logprob = 0;  // natural logarithm, before temperature; >= -9999
};

// A token that ends the generation (end of generation, stop_token_ids) is not reported as output,
// but counts in usage.completion_tokens, as in vLLM. Only a prefill_only request reports whatever
// its first token is: the engine that goes on with it decides.
struct token_output {
  std::uint32_t index = 0;  // 0 is the first generated token
  token_id token = 0;
  float logprob = 0;               // if asked for
  std::vector<token_logprob> top;  // most likely first
};

enum class finish_reason : std::uint8_t { none, stop, length, abort, error };
std::string_view to_string(finish_reason r);  // OpenAI's words; abort and error included

// How a request went, for usage and metrics.
struct generation_usage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;       // prompt tokens whose KV was reused here
  std::uint32_t transferred_tokens = 0;  // prompt tokens whose KV was pulled from a peer
  std::uint32_t completion_tokens = 0;
  std::uint32_t preemptions = 0;
  std::uint64_t queue_us = 0;     // waiting for the engine
  std::uint64_t prefill_us = 0;   // computing the prompt here
  std::uint64_t transfer_us = 0;  // the time of its pulls, summed
  std::uint64_t transfer_bytes = 0;
};

}  // namespace troupe::engine
