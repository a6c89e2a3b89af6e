// The sampling fields of a request body, each with its range: engine::sampling_params under
// OpenAI's and vLLM's names.
#include <limits>

#include "api/answer_format_fields.hpp"
#include "api/request.hpp"

namespace troupe::api {
namespace {

constexpr std::int64_t int32_max = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t int64_max = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t int64_min = std::numeric_limits<std::int64_t>::min();

void read_stops(field_reader& in, const request_limits& limits, std::vector<std::string>& to) {
  const auto* value = in.find("stop");
  if (!value) return;
  auto add = [&](const nlohmann::json& one) {
    if (!one.is_string())
      return in.fail(
          bad_field("stop", "stop must be a string or a list of strings.", "invalid_type"));
    const auto& s = one.get_ref<const std::string&>();
    if (s.empty()) return in.fail(bad_field("stop", "A stop string must not be empty."));
    if (s.size() > limits.max_stop_bytes)
      return in.fail(bad_field("stop", "A stop string may have at most " +
                                           std::to_string(limits.max_stop_bytes) + " bytes."));
    to.push_back(s);
  };
  if (!value->is_array()) return add(*value);
  if (value->size() > limits.max_stops)
    return in.fail(bad_field(
        "stop", "At most " + std::to_string(limits.max_stops) + " stop strings are allowed."));
  for (const auto& one : *value) add(one);
}

void read_logit_bias(field_reader& in, const request_limits& limits,
                     std::vector<std::pair<token_id, float>>& to) {
  const auto* value = in.find("logit_bias");
  if (!value) return;
  if (!value->is_object() || value->size() > 1024)
    return in.fail(bad_field("logit_bias", "logit_bias must be an object of at most 1024 tokens."));
  for (const auto& [key, bias] : value->items()) {
    std::uint64_t id = 0;
    const bool digits =
        !key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == std::string::npos;
    if (digits) id = std::stoull(key);
    if (!digits || id >= limits.vocab_size)
      return in.fail(
          bad_field("logit_bias", "logit_bias has a key that is no token id of this model."));
    const double b =
        bias.is_number() ? bias.get<double>() : std::numeric_limits<double>::quiet_NaN();
    if (!(b >= -100 && b <= 100))
      return in.fail(bad_field("logit_bias", "logit_bias values must be numbers in [-100, 100]."));
    to.emplace_back(static_cast<token_id>(id), static_cast<float>(b));
  }
}

// Anything that would bend the answer and that we cannot do.
void refuse_unsupported(field_reader& in) {
  for (const char* name :
       {"bad_words", "truncate_prompt_tokens", "logits_processors", "prompt_embeds",
        "allowed_token_ids", "regex", "ebnf", "stop_regex", "lora"}) {
    const auto* value = in.find(name);
    if (value && !(value->is_string() && value->get_ref<const std::string&>().empty()) &&
        !(value->is_array() && value->empty()))
      in.fail(unsupported_field(name, std::string(name) + " is not supported."));
  }
  struct neutral {
    const char* name;
    double value;
  };
  for (const auto& [name, value] :
       {neutral{"mirostat", 0}, neutral{"typical_p", 1}, neutral{"dry_multiplier", 0},
        neutral{"xtc_probability", 0}, neutral{"dynatemp_range", 0}, neutral{"tfs_z", 1},
        neutral{"no_repeat_ngram_size", 0}, neutral{"length_penalty", 1}}) {
    const auto* given = in.find(name);
    if (given && !(given->is_number() && given->get<double>() == value))
      in.fail(unsupported_field(name, std::string(name) + " is not supported."));
  }
  bool beam = false;
  if (in.boolean("use_beam_search", beam) && beam)
    in.fail(unsupported_field("use_beam_search", "Beam search is not supported."));
}

}  // namespace

bool read_token_ids(field_reader& in, std::string_view field, const nlohmann::json& list,
                    std::uint32_t vocab_size, std::vector<token_id>& to) {
  to.reserve(to.size() + list.size());
  for (const auto& one : list) {
    auto id = as_integer(one, 0, static_cast<std::int64_t>(vocab_size) - 1);
    if (!id) {
      in.fail(bad_field(field, std::string(field) + " must hold token ids in [0, " +
                                   std::to_string(vocab_size) + ")."));
      return false;
    }
    to.push_back(static_cast<token_id>(*id));
  }
  return true;
}

void read_sampling(field_reader& in, const request_limits& limits, common_request& to) {
  auto& p = to.sampling;
  in.number("temperature", p.temperature, 0, 2);
  if (in.number("top_p", p.top_p, 0, 1) && p.top_p <= 0)
    in.fail(bad_field("top_p", "top_p must be a number in (0, 1]."));
  std::int64_t top_k = 0;
  if (in.integer("top_k", top_k, -1, int32_max))
    p.top_k = top_k < 0 ? 0 : static_cast<std::uint32_t>(top_k);
  in.number("min_p", p.min_p, 0, 1);
  for (const char* name : {"repeat_penalty", "repetition_penalty"})
    if (in.number(name, p.repetition_penalty, 0, 10) && p.repetition_penalty <= 0)
      in.fail(bad_field(name, std::string(name) + " must be a number in (0, 10]."));
  in.number("presence_penalty", p.presence_penalty, -2, 2);
  in.number("frequency_penalty", p.frequency_penalty, -2, 2);
  std::int64_t seed = 0;
  to.has_seed = in.integer("seed", seed, int64_min, int64_max);
  p.seed = static_cast<std::uint64_t>(seed);
  in.boolean("ignore_eos", p.ignore_eos);
  in.integer("min_tokens", p.min_tokens, 0, int32_max);
  if (const auto* ids = in.find("stop_token_ids")) {
    if (!ids->is_array() || ids->size() > 128)
      in.fail(
          bad_field("stop_token_ids", "stop_token_ids must be a list of at most 128 token ids."));
    else
      read_token_ids(in, "stop_token_ids", *ids, limits.vocab_size, p.stop_token_ids);
  }
  read_logit_bias(in, limits, p.logit_bias);
  read_stops(in, limits, to.stop);
  read_answer_format(in, to.form);
  refuse_unsupported(in);
}

void read_common(field_reader& in, const request_limits& limits, common_request& to) {
  in.text("model", to.model, 0, 1024);
  read_sampling(in, limits, to);
  in.integer("n", to.n, 1, limits.max_n);
  std::int64_t best_of = to.n;
  if (in.integer("best_of", best_of, 1, limits.max_n) && best_of != to.n)
    in.fail(unsupported_field("best_of", "best_of other than n is not supported."));
  in.boolean("include_stop_str_in_output", to.include_stop_str_in_output);
  in.boolean("skip_special_tokens", to.skip_special_tokens);
  in.boolean("return_tokens_as_token_ids", to.return_tokens_as_token_ids);
  in.boolean("return_trace", to.return_trace);
  in.boolean("stream", to.stream);
  if (const auto* options = in.find("stream_options")) {
    if (!options->is_object())
      in.fail(bad_field("stream_options", "stream_options must be an object.", "invalid_type"));
    else if (!to.stream)
      in.fail(bad_field("stream_options", "stream_options is only allowed when stream is true."));
    else {
      field_reader sub(*options);
      sub.boolean("continuous_usage_stats", to.continuous_usage);
      to.include_usage = to.continuous_usage;  // unless it is denied, as in vLLM
      sub.boolean("include_usage", to.include_usage);
      to.continuous_usage &= to.include_usage;
      if (sub.failure())
        in.fail(bad_field("stream_options", sub.failure()->message, "invalid_type"));
    }
  }
  if (in.find("cache_salt")) in.text("cache_salt", to.cache_salt, 1, 1024);
  in.integer("priority", to.priority, -1'000'000, 1'000'000);
  in.number("timeout_s", to.timeout_s, 0.001, 86'400);
  // In order of precedence: the last one that is present wins.
  for (const char* name : {"n_predict", "max_tokens", "max_completion_tokens"}) {
    std::int64_t value = 0;
    if (!in.integer(name, value, -1, int32_max)) continue;
    to.to_the_end = value < 0;  // as llama.cpp takes -1
    to.max_tokens.reset();
    if (value >= 0) to.max_tokens = static_cast<std::uint32_t>(value);
  }
  if (to.max_tokens && to.sampling.min_tokens > *to.max_tokens)
    in.fail(bad_field("min_tokens", "min_tokens must not exceed max_tokens."));
}

}  // namespace troupe::api
