#include "api/request.hpp"

#include <algorithm>
#include <array>

namespace troupe::api {
namespace {

constexpr std::array roles{"system", "user", "assistant", "tool", "developer", "function"};

std::string at(std::size_t i) {
  return "messages[" + std::to_string(i) + "]";
}

// Content: a string, null where the role allows it, or a list of text parts.
void check_content(field_reader& in, std::size_t i, nlohmann::json& message) {
  auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    if (message["role"] != "assistant")
      return in.fail(bad_field("messages", at(i) + ".content is missing."));
    message["content"] = "";
    return;
  }
  if (content->is_string()) return;
  if (!content->is_array())
    return in.fail(bad_field("messages", at(i) + ".content must be a string or a list of parts.",
                             "invalid_type"));
  for (auto& part : *content) {
    if (!part.is_object() || !part.contains("type") || !part["type"].is_string())
      return in.fail(bad_field("messages", at(i) + ".content holds a part without type."));
    // What an assistant refused with comes back in the next request.
    if (part["type"] == "refusal" && message["role"] == "assistant") {
      auto text = part.value("refusal", nlohmann::json());
      part = {{"type", "text"}, {"text", std::move(text)}};
    }
    if (part["type"] != "text") {
      const auto& type = part["type"].get_ref<const std::string&>();
      return in.fail(unsupported_field(
          "messages", at(i) + ".content holds a part " +
                          (type.size() <= 32 ? "of type '" + type + "'" : "that is no text") +
                          ": this server takes text only, no images, audio or files."));
    }
    if (!part.contains("text") || !part["text"].is_string())
      return in.fail(bad_field("messages", at(i) + ".content holds a text part without text."));
  }
}

void read_messages(field_reader& in, const request_limits& limits, nlohmann::json& to) {
  const auto* messages = in.find("messages");
  if (!messages)
    return in.fail(bad_field("messages", "messages is missing.", "missing_required_parameter"));
  if (!messages->is_array() || messages->empty())
    return in.fail(bad_field("messages", "messages must be a list of at least one message."));
  if (messages->size() > limits.max_messages)
    return in.fail(bad_field("messages", "messages holds more than " +
                                             std::to_string(limits.max_messages) + " messages."));
  to = *messages;
  for (std::size_t i = 0; i < to.size(); ++i) {
    auto& message = to[i];
    if (!message.is_object())
      return in.fail(bad_field("messages", at(i) + " must be an object.", "invalid_type"));
    auto role = message.find("role");
    if (role == message.end() || !role->is_string() ||
        std::find(roles.begin(), roles.end(), role->get_ref<const std::string&>()) == roles.end())
      return in.fail(bad_field(
          "messages", at(i) + ".role must be system, developer, user, assistant or tool."));
    // OpenAI's newer name for the same thing; templates know only the older one.
    if (*role == "developer") *role = "system";
    check_content(in, i, message);
    if (!in.failure()) check_tool_message(in, at(i), message);
    if (in.failure()) return;
  }
}

void refuse_other_media(field_reader& in) {
  if (const auto* modalities = in.find("modalities"))
    if (*modalities != nlohmann::json::array({"text"}))
      in.fail(unsupported_field("modalities", "Only text is supported."));
  if (in.find("audio")) in.fail(unsupported_field("audio", "Only text is supported."));
}

// The form that is asked for becomes the answer's.
void take_form(field_reader& in, const request_limits& limits, common_request& common) {
  if (in.failure() || common.form.format.kind == engine::structured::format_kind::text) return;
  if (auto checked = check_form(common.form, limits.form_checked); !checked)
    return in.fail(std::move(checked).error());
  common.sampling.format = std::move(common.form.format);
}

}  // namespace

void read_chat_fields(field_reader& in, const request_limits& limits, chat_request& to) {
  read_messages(in, limits, to.messages);
  read_tools(in, limits.max_tools, to.tools);
  refuse_other_media(in);
  in.boolean("add_generation_prompt", to.add_generation_prompt);
  in.boolean("continue_final_message", to.continue_final_message);
  in.boolean("add_special_tokens", to.add_special_tokens);
  if (to.continue_final_message) {
    bool asked = false;
    if (in.boolean("add_generation_prompt", asked) && asked)
      in.fail(bad_field("continue_final_message",
                        "continue_final_message and add_generation_prompt exclude each other."));
    to.add_generation_prompt = false;
  }
  if (in.find("chat_template"))
    in.fail(
        unsupported_field("chat_template", "A chat template of the request's own is not allowed."));
  if (const auto* kwargs = in.find("chat_template_kwargs")) {
    if (!kwargs->is_object() || kwargs->size() > 64)
      return in.fail(bad_field("chat_template_kwargs", "chat_template_kwargs must be an object."));
    for (const char* own : {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token",
                            "chat_template", "tokenize", "continue_final_message"})
      if (kwargs->contains(own))
        return in.fail(bad_field("chat_template_kwargs",
                                 std::string(own) + " cannot be set by chat_template_kwargs."));
    to.template_kwargs = *kwargs;
  }
}

void read_prompts(field_reader& in, const request_limits& limits, std::vector<text_or_tokens>& to) {
  const auto* prompt = in.find("prompt");
  if (!prompt)
    return in.fail(bad_field("prompt", "prompt is missing.", "missing_required_parameter"));
  auto add_tokens = [&](const nlohmann::json& list) {
    text_or_tokens one{{}, {}, true};
    if (list.empty()) return in.fail(bad_field("prompt", "A prompt must hold at least one token."));
    if (read_token_ids(in, "prompt", list, limits.vocab_size, one.tokens))
      to.push_back(std::move(one));
  };
  if (prompt->is_string()) {
    to.push_back({prompt->get<std::string>(), {}, false});
    return;
  }
  if (!prompt->is_array())
    return in.fail(bad_field("prompt",
                             "prompt must be a string, a list of strings, a list of token ids "
                             "or a list of lists of token ids.",
                             "invalid_type"));
  if (prompt->empty()) return in.fail(bad_field("prompt", "prompt must not be an empty list."));
  if (prompt->front().is_number()) return add_tokens(*prompt);
  if (prompt->size() > limits.max_prompts)
    return in.fail(bad_field("prompt", "At most " + std::to_string(limits.max_prompts) +
                                           " prompts are allowed in one request."));
  for (const auto& one : *prompt) {
    if (in.failure()) return;
    if (one.is_string() && prompt->front().is_string())
      to.push_back({one.get<std::string>(), {}, false});
    else if (one.is_array() && prompt->front().is_array())
      add_tokens(one);
    else
      in.fail(bad_field("prompt", "prompt mixes kinds of items.", "invalid_type"));
  }
}

// Text behind the cursor, for models that fill in the middle.
void read_suffix(field_reader& in, completion_request& to) {
  const auto* suffix = in.find("suffix");
  if (!suffix) return;
  if (!suffix->is_string())
    return in.fail(bad_field("suffix", "suffix must be a string.", "invalid_type"));
  to.suffix = suffix->get<std::string>();
  if (to.suffix.empty()) return;
  if (to.echo) return in.fail(bad_field("suffix", "suffix and echo exclude each other."));
  for (const auto& p : to.prompts)
    if (p.is_tokens)
      return in.fail(bad_field("suffix", "suffix needs prompts that are text, not token ids."));
}

api_result<completion_request> parse_completion(const nlohmann::json& body,
                                                const request_limits& limits) {
  field_reader in(body);
  completion_request out;
  read_common(in, limits, out.common);
  read_prompts(in, limits, out.prompts);
  in.boolean("echo", out.echo);
  in.boolean("add_special_tokens", out.add_special_tokens);
  read_suffix(in, out);
  // OpenAI's completions take a number; true and false are chat's, but some clients send them here
  // too.
  if (const auto* logprobs = in.find("logprobs"); logprobs && logprobs->is_boolean()) {
    if (logprobs->get<bool>()) out.common.sampling.logprobs = 1;
  } else {
    std::uint32_t k = 0;
    if (in.integer("logprobs", k, 0, 20)) out.common.sampling.logprobs = k;
  }
  if (out.echo) out.common.sampling.prompt_logprobs = out.common.sampling.logprobs;
  if (in.find("prompt_logprobs"))
    in.fail(
        unsupported_field("prompt_logprobs", "Use echo with logprobs for logprobs of the prompt."));
  if (out.prompts.size() * out.common.n > limits.max_choices)
    in.fail(bad_field(
        "n", "prompts times n must not exceed " + std::to_string(limits.max_choices) + "."));
  take_form(in, limits, out.common);
  if (in.failure()) return tl::make_unexpected(*in.failure());
  return out;
}

api_result<chat_request> parse_chat(const nlohmann::json& body, const request_limits& limits) {
  field_reader in(body);
  if (const auto* suffix = in.find("suffix"); suffix && *suffix != "")
    in.fail(unsupported_field("suffix", "suffix is supported by /v1/completions only."));
  chat_request out;
  read_common(in, limits, out.common);
  read_chat_fields(in, limits, out);
  bool logprobs = false, echo = false;
  std::uint32_t top = 0;
  in.boolean("logprobs", logprobs);
  if (in.integer("top_logprobs", top, 0, 20) && !logprobs)
    in.fail(bad_field("top_logprobs", "top_logprobs is only allowed when logprobs is true."));
  if (logprobs) out.common.sampling.logprobs = top;
  if (in.boolean("echo", echo) && echo)
    in.fail(unsupported_field("echo", "echo is supported by /v1/completions only."));
  if (in.find("prompt_logprobs"))
    in.fail(unsupported_field("prompt_logprobs", "Use /v1/completions with echo and logprobs."));
  if (out.common.max_tokens && *out.common.max_tokens == 0)
    in.fail(bad_field("max_tokens", "max_tokens must be at least 1."));
  if (!out.tools.active()) take_form(in, limits, out.common);  // else it is a part of theirs
  if (in.failure()) return tl::make_unexpected(*in.failure());
  return out;
}

}  // namespace troupe::api
