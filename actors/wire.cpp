#include "actors/wire.hpp"

#include <algorithm>
#include <bit>

namespace troupe::actors {
namespace {

std::uint32_t bits(float x) {
  return std::bit_cast<std::uint32_t>(x);
}
float value(std::uint32_t x) {
  return std::bit_cast<float>(x);
}

std::int32_t to_wire(const std::optional<std::uint32_t>& x) {
  return x ? static_cast<std::int32_t>(*x) : -1;
}
std::optional<std::uint32_t> from_wire(std::int32_t x) {
  if (x < 0) return std::nullopt;
  return static_cast<std::uint32_t>(x);
}

template <class Request>
engine::generation_request request_of(const Request& r, engine::time_point now) {
  engine::generation_request g;
  g.id = request_id{r.id};
  g.try_number = r.try_number;
  g.prompt = r.prompt;
  g.output = r.output;
  g.sampling = from_wire(r.sampling);
  g.cache_salt = r.cache_salt;
  g.deadline =
      now + std::chrono::milliseconds(std::min<std::uint64_t>(r.timeout_ms, 24ull * 3600 * 1000));
  return g;
}

}  // namespace

sampling_wire to_wire(const engine::sampling_params& p) {
  sampling_wire w;
  w.temperature_bits = bits(p.temperature);
  w.top_p_bits = bits(p.top_p);
  w.top_k = p.top_k;
  w.min_p_bits = bits(p.min_p);
  w.repetition_penalty_bits = bits(p.repetition_penalty);
  w.presence_penalty_bits = bits(p.presence_penalty);
  w.frequency_penalty_bits = bits(p.frequency_penalty);
  for (const auto& [token, bias] : p.logit_bias) {
    w.bias_tokens.push_back(token);
    w.bias_bits.push_back(bits(bias));
  }
  w.seed = p.seed;
  w.sequence_index = p.sequence_index;
  w.logprobs = to_wire(p.logprobs);
  w.prompt_logprobs = to_wire(p.prompt_logprobs);
  w.stop_token_ids = p.stop_token_ids;
  w.ignore_eos = p.ignore_eos;
  w.min_tokens = p.min_tokens;
  w.max_tokens = p.max_tokens;
  w.format_kind = static_cast<std::uint8_t>(p.format.kind);
  w.format_source = p.format.source;
  return w;
}

engine::sampling_params from_wire(const sampling_wire& w) {
  engine::sampling_params p;
  p.temperature = value(w.temperature_bits);
  p.top_p = value(w.top_p_bits);
  p.top_k = w.top_k;
  p.min_p = value(w.min_p_bits);
  p.repetition_penalty = value(w.repetition_penalty_bits);
  p.presence_penalty = value(w.presence_penalty_bits);
  p.frequency_penalty = value(w.frequency_penalty_bits);
  for (std::size_t i = 0; i < std::min(w.bias_tokens.size(), w.bias_bits.size()); ++i)
    p.logit_bias.emplace_back(w.bias_tokens[i], value(w.bias_bits[i]));
  p.seed = w.seed;
  p.sequence_index = w.sequence_index;
  p.logprobs = from_wire(w.logprobs);
  p.prompt_logprobs = from_wire(w.prompt_logprobs);
  p.stop_token_ids = w.stop_token_ids;
  p.ignore_eos = w.ignore_eos;
  p.min_tokens = w.min_tokens;
  p.max_tokens = w.max_tokens;
  p.format = {static_cast<engine::structured::format_kind>(w.format_kind), w.format_source};
  return p;
}

token_wire to_wire(const engine::token_output& t) {
  token_wire w{t.index, t.token, bits(t.logprob), {}, {}};
  for (const auto& alternative : t.top) {
    w.top_tokens.push_back(alternative.token);
    w.top_bits.push_back(bits(alternative.logprob));
  }
  return w;
}

engine::token_output from_wire(const token_wire& w) {
  engine::token_output t{w.index, w.token, value(w.logprob_bits), {}};
  for (std::size_t i = 0; i < std::min(w.top_tokens.size(), w.top_bits.size()); ++i)
    t.top.push_back({w.top_tokens[i], value(w.top_bits[i])});
  return t;
}

generation_finished to_wire(const engine::finished_event& e) {
  generation_finished w;
  w.id = raw(e.id);
  w.try_number = e.try_number;
  w.reason = static_cast<std::uint8_t>(e.reason);
  const bool failed =
      e.reason == engine::finish_reason::error || e.reason == engine::finish_reason::abort;
  w.code = failed ? e.failure.code : ec::none;
  w.detail = e.failure.detail;
  w.prompt_tokens = e.usage.prompt_tokens;
  w.cached_tokens = e.usage.cached_tokens;
  w.transferred_tokens = e.usage.transferred_tokens;
  w.completion_tokens = e.usage.completion_tokens;
  w.preemptions = e.usage.preemptions;
  w.queue_us = e.usage.queue_us;
  w.prefill_us = e.usage.prefill_us;
  w.transfer_us = e.usage.transfer_us;
  w.transfer_bytes = e.usage.transfer_bytes;
  return w;
}

generation_finished failed_with(std::uint64_t id, std::uint32_t try_number, const error& why) {
  generation_finished w;
  w.id = id;
  w.try_number = try_number;
  w.reason = static_cast<std::uint8_t>(engine::finish_reason::error);
  w.code = why.code;
  w.detail = why.detail;
  return w;
}

generation_end from_wire(const generation_finished& w) {
  generation_end end;
  end.reason = w.reason <= static_cast<std::uint8_t>(engine::finish_reason::error)
                   ? static_cast<engine::finish_reason>(w.reason)
                   : engine::finish_reason::error;
  end.failure = {w.code, w.detail};
  end.usage = {w.prompt_tokens,     w.cached_tokens, w.transferred_tokens,
               w.completion_tokens, w.preemptions,   w.queue_us,
               w.prefill_us,        w.transfer_us,   w.transfer_bytes};
  end.trace = {w.decode_node,   w.prefill_node,  w.route_reason,
               w.transfer_path, w.blocks_pulled, w.migrations};
  end.retry_after = std::chrono::seconds(w.retry_after_s);
  return end;
}

engine::generation_request to_engine(const generate_request& r, engine::time_point now) {
  auto g = request_of(r, now);
  g.tenant = r.tenant;
  return g;
}

engine::generation_request to_engine(const prefill_request& r, engine::time_point now) {
  auto g = request_of(r, now);
  g.prefill_only = true;
  return g;
}

std::string_view to_string(role r) {
  switch (r) {
    case role::gateway:
      return "gateway";
    case role::prefill:
      return "prefill";
    case role::decode:
      return "decode";
    case role::kv_store:
      return "kv-store";
    case role::draft:
      return "draft";
  }
  return "unknown";
}

std::string_view to_string(node_state s) {
  switch (s) {
    case node_state::joining:
      return "joining";
    case node_state::ready:
      return "ready";
    case node_state::draining:
      return "draining";
    case node_state::lost:
      return "lost";
  }
  return "unknown";
}

result<role> parse_role(std::string_view text) {
  for (role r : {role::prefill, role::decode, role::kv_store, role::draft})
    if (text == to_string(r)) return r;
  return fail(ec::invalid_argument, "role '" + std::string(text) +
                                        "' is unknown: use prefill, decode, kv-store or draft");
}

}  // namespace troupe::actors
