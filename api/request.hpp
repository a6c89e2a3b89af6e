// A checked request of /v1/completions or /v1/chat/completions, and the functions that make it from
// JSON.
//
// What would change the answer and is not supported is refused (400), never ignored; fields that
// cannot change the answer (user, metadata, store ...) are accepted and ignored, so are unknown
// ones. Plain values, any thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/answer_format_fields.hpp"
#include "api/errors.hpp"
#include "api/json_input.hpp"
#include "api/tool_fields.hpp"
#include "engine/generation.hpp"

namespace troupe::api {

// What requests are checked against.
struct request_limits {
  std::uint32_t vocab_size = 0;
  std::uint32_t max_prompts = 128;
  std::uint32_t max_n = 128;
  std::uint32_t max_choices = 1024;  // prompts * n
  std::uint32_t max_stops = 16;
  std::uint32_t max_stop_bytes = 1024;
  std::uint32_t max_messages = 4096;
  std::uint32_t max_tools = 128;
  form_observer form_checked = {};  // for metrics
};

// Fields that both endpoints share.
struct common_request {
  std::string model;
  engine::sampling_params
      sampling;     // max_tokens is set by the endpoint once the prompt's length is known
  asked_form form;  // becomes sampling's once it is checked, alone or together with the tools
  std::optional<std::uint32_t> max_tokens;
  bool to_the_end = false;  // of the context, as long as no end of the answer comes
  std::uint32_t n = 1;
  std::vector<std::string> stop;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;  // in every chunk, of its choice so far
  bool return_tokens_as_token_ids = false;
  bool return_trace = false;  // ours: the last chunk tells who did what
  std::string cache_salt;
  std::int32_t priority = 0;  // lower is served earlier
  float timeout_s = 0;        // of the whole answer; 0: the server's
  bool has_seed = false;
};

struct text_or_tokens {
  std::string text;
  std::vector<token_id> tokens;
  bool is_tokens = false;
};

struct completion_request {
  common_request common;
  std::vector<text_or_tokens> prompts;
  std::string suffix;  // what follows the answer; empty: nothing is known of it
  bool echo = false;
  bool add_special_tokens = true;
};

struct chat_request {
  common_request common;
  nlohmann::json messages;  // roles and content kinds are checked
  tool_request tools;
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool add_special_tokens = false;
  nlohmann::json template_kwargs = nlohmann::json::object();
};

api_result<completion_request> parse_completion(const nlohmann::json& body,
                                                const request_limits& limits);
api_result<chat_request> parse_chat(const nlohmann::json& body, const request_limits& limits);

// The parts, shared with /tokenize.
void read_common(field_reader& in, const request_limits& limits, common_request& to);
void read_sampling(field_reader& in, const request_limits& limits, common_request& to);
void read_chat_fields(field_reader& in, const request_limits& limits, chat_request& to);
// One prompt, or many: string, list of strings, list of ids, list of lists of ids.
void read_prompts(field_reader& in, const request_limits& limits, std::vector<text_or_tokens>& to);
// ids in [0, vocab_size); an error names `field`.
bool read_token_ids(field_reader& in, std::string_view field, const nlohmann::json& list,
                    std::uint32_t vocab_size, std::vector<token_id>& to);

}  // namespace troupe::api
