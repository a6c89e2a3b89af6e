#include "engine/generation.hpp"

#include <cmath>

namespace troupe::engine {
namespace {

tl::unexpected<error> bad(const char* field, const std::string& why) {
  return fail(ec::invalid_argument, std::string(field) + ": " + why);
}

// Written so that NaN fails.
bool within(float x, float low, float high) {
  return x >= low && x <= high;
}

}  // namespace

result<void> validate(const sampling_params& p, std::size_t vocab_size) {
  const std::string list_bound =
      "must be at most " + std::to_string(most_listed_tokens) + " tokens";
  const std::string token_bound = "token ids must be below " + std::to_string(vocab_size);
  if (!within(p.temperature, 0, 2)) return bad("temperature", "must be in [0, 2]");
  if (!(within(p.top_p, 0, 1) && p.top_p > 0)) return bad("top_p", "must be in (0, 1]");
  if (!within(p.min_p, 0, 1)) return bad("min_p", "must be in [0, 1]");
  if (!(std::isfinite(p.repetition_penalty) && p.repetition_penalty > 0))
    return bad("repetition_penalty", "must be greater than 0");
  if (!within(p.presence_penalty, -2, 2)) return bad("presence_penalty", "must be in [-2, 2]");
  if (!within(p.frequency_penalty, -2, 2)) return bad("frequency_penalty", "must be in [-2, 2]");
  if (p.logit_bias.size() > most_listed_tokens) return bad("logit_bias", list_bound);
  if (p.stop_token_ids.size() > most_listed_tokens) return bad("stop_token_ids", list_bound);
  for (const auto& [token, bias] : p.logit_bias) {
    if (token >= vocab_size) return bad("logit_bias", token_bound);
    if (!within(bias, -100, 100)) return bad("logit_bias", "values must be in [-100, 100]");
  }
  if (p.logprobs && *p.logprobs > 20) return bad("logprobs", "must be at most 20");
  if (p.prompt_logprobs && *p.prompt_logprobs > 20)
    return bad("prompt_logprobs", "must be at most 20");
  for (token_id t : p.stop_token_ids)
    if (t >= vocab_size) return bad("stop_token_ids", token_bound);
  if (p.min_tokens > p.max_tokens) return bad("min_tokens", "must be at most max_tokens");
  return {};
}

std::string_view to_string(finish_reason r) {
  switch (r) {
    case finish_reason::none:
      return "none";
    case finish_reason::stop:
      return "stop";
    case finish_reason::length:
      return "length";
    case finish_reason::abort:
      return "abort";
    case finish_reason::error:
      return "error";
  }
  return "unknown";
}

}  // namespace troupe::engine
