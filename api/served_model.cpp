#include "api/served_model.hpp"

#include <algorithm>
#include <numeric>

namespace troupe::api {
namespace {

api_error too_long(const served_model& m, std::uint32_t fits, std::string_view field,
                   const std::string& asked) {
  // Clients know OpenAI's words, whatever the cause.
  std::string limit = "This model's maximum context length is " + std::to_string(fits) + " tokens";
  if (fits < m.max_model_len)
    limit += " here (max_model_len " + std::to_string(m.max_model_len) +
             ": the server's KV cache holds no more)";
  return bad_field(field, limit + ". " + asked + " Shorten the prompt or the answer.",
                   "context_length_exceeded");
}

// No tokenizer makes fewer tokens than this, so a text far too long is refused before the work.
bool surely_too_long(const served_model& m, std::size_t bytes) {
  return m.longest_token_bytes > 0 && bytes / m.longest_token_bytes > m.max_model_len;
}

template <class Json>
std::string flatten(const Json& content) {
  if (content.is_string()) return content.template get<std::string>();
  std::string text;
  for (const auto& part : content) {
    if (!text.empty()) text += '\n';
    text += part["text"].template get_ref<const std::string&>();
  }
  return text;
}

// The arguments of a message's earlier calls.
std::size_t bytes_of_calls(const nlohmann::ordered_json& message) {
  std::size_t bytes = 0;
  const auto calls = message.find("tool_calls");
  if (calls == message.end()) return bytes;
  for (const auto& call : *calls) {
    const auto& function = call["function"];
    const auto arguments = function.find("arguments");
    if (arguments == function.end()) continue;
    bytes += arguments->is_string() ? arguments->get_ref<const std::string&>().size()
                                    : dump(*arguments).size();
  }
  return bytes;
}

std::string special_text(const model::tokenizer& t, std::optional<token_id> id) {
  return id ? t.token_bytes(*id, true) : std::string();
}

// Ends the prompt inside the last message: whatever the template puts after its text is cut off.
api_result<void> cut_after(std::vector<model::text_segment>& segments, std::string_view last) {
  std::string whole;
  for (const auto& s : segments) whole += s.text;
  const auto first = last.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos)
    return tl::make_unexpected(bad_field("continue_final_message", "The final message is empty."));
  const auto trimmed = last.substr(first, last.find_last_not_of(" \t\r\n") - first + 1);
  // Templates may trim; whichever form they kept.
  auto found = whole.rfind(last);
  std::size_t length = last.size();
  if (found == std::string::npos) found = whole.rfind(trimmed), length = trimmed.size();
  if (found == std::string::npos)
    return tl::make_unexpected(bad_field(
        "continue_final_message", "The model's template does not keep the final message's text."));
  std::size_t keep = found + length;
  std::vector<model::text_segment> kept;
  for (auto& s : segments) {
    if (keep == 0) break;
    if (s.text.size() > keep) s.text.resize(keep);
    keep -= s.text.size();
    kept.push_back(std::move(s));
  }
  segments = std::move(kept);
  return {};
}

}  // namespace

bool served_model::is_named(std::string_view name) const {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void measure_tokens(served_model& m) {
  const auto n = static_cast<token_id>(m.tokenizer->vocab_size());
  for (token_id id = 0; id < n; ++id)
    m.longest_token_bytes =
        std::max(m.longest_token_bytes, m.tokenizer->token_bytes(id, true).size());
}

api_result<std::vector<token_id>> tokenize_prompt(const served_model& m,
                                                  const text_or_tokens& prompt,
                                                  bool add_special_tokens) {
  if (prompt.is_tokens) return prompt.tokens;
  if (surely_too_long(m, prompt.text.size()))
    return tl::make_unexpected(
        too_long(m, m.max_model_len, "prompt", "The prompt alone is longer."));
  auto ids = m.tokenizer->encode(prompt.text, add_special_tokens);
  if (ids.empty())  // the model adds no beginning of its own
    return tl::make_unexpected(bad_field("prompt", "The prompt must not be empty."));
  return ids;
}

api_result<std::vector<token_id>> tokenize_infill(const served_model& m, const std::string& prompt,
                                                  const std::string& suffix,
                                                  bool add_special_tokens) {
  if (!m.infill)
    return tl::make_unexpected(unsupported_field(
        "suffix",
        "This model's vocabulary has no tokens for filling in the middle (such as <fim_prefix>): "
        "serve a model for code that has them, or leave suffix out."));
  if (surely_too_long(m, prompt.size() + suffix.size()))
    return tl::make_unexpected(
        too_long(m, m.max_model_len, "prompt", "The prompt and the suffix are longer."));
  return model::infill_prompt(*m.tokenizer, *m.infill, prompt, suffix, add_special_tokens);
}

api_result<std::vector<token_id>> tokenize_chat(const served_model& m,
                                                const chat_request& request) {
  if (!m.chat_template)
    return tl::make_unexpected(unsupported_field(
        "messages", "This model has no usable chat template. Use /v1/completions."));
  nlohmann::ordered_json context = request.template_kwargs;
  auto& messages = context["messages"] = request.messages;
  std::size_t bytes = 0;
  for (auto& message : messages) {
    std::string flat = flatten(message["content"]);
    bytes += flat.size() + bytes_of_calls(message);
    message["content"] = std::move(flat);
  }
  for (const auto& tool : request.tools.tools) bytes += tool.call.parameters.size();
  if (surely_too_long(m, bytes))
    return tl::make_unexpected(
        too_long(m, m.max_model_len, "messages", "The messages alone are longer."));
  put_tools(context, request.tools, m.tools, m.chat_template->tools());
  if (m.chat_template->wants_content_parts())
    for (auto& message : messages)
      if (message["content"].is_string())
        message["content"] = {{{"type", "text"}, {"text", message["content"]}}};
  context["add_generation_prompt"] = request.add_generation_prompt;
  context["bos_token"] = special_text(*m.tokenizer, m.tokenizer->bos());
  const auto& ends = m.tokenizer->end_of_generation();
  context["eos_token"] =
      special_text(*m.tokenizer, ends.empty() ? std::nullopt : std::optional(ends.front()));

  auto segments = m.chat_template->render_ordered(context);
  if (!segments) {
    api_error e = from_error(segments.error());
    if (e.status == 400 && e.param.empty()) e.param = "messages";
    return tl::make_unexpected(std::move(e));
  }
  if (request.continue_final_message)
    API_CHECK(cut_after(*segments, flatten(request.messages.back()["content"])));
  auto ids = m.tokenizer->encode(*segments, request.add_special_tokens);
  if (ids.empty())
    return tl::make_unexpected(bad_field("messages", "The prompt must not be empty."));
  return ids;
}

api_result<std::optional<call_reading>> constrain_calls(const served_model& m,
                                                        chat_request& request,
                                                        const form_observer& observer) {
  const tool_request& tools = request.tools;
  if (!tools.active()) return std::nullopt;
  if (!m.tools.served)
    return tl::make_unexpected(
        unsupported_field("tools", "This server was started with --tool-call-parser none."));
  const asked_form& asked = request.common.form;
  engine::structured::tool_call_form form;
  form.syntax = m.tools.syntax;
  form.required = tools.forced();
  form.parallel = tools.parallel && tools.choice != tool_choice::named;
  for (const auto& tool : tools.tools)
    if (tools.may_call(tool.call.name)) form.tools.push_back(tool.call);
  // A forced call leaves no room for another form of the answer.
  const bool apart = !form.required && asked.format.kind != engine::structured::format_kind::text;
  if (apart) form.otherwise = asked.format;
  asked_form whole{engine::structured::to_format(form), "tools"};
  API_CHECK(check_form(whole, observer, apart ? &asked : nullptr));
  request.common.sampling.format = std::move(whole.format);
  call_reading how{m.tools.syntax, {}, tools.forced(), tools.choice == tool_choice::named, apart};
  for (const auto& tool : tools.tools) how.tools.push_back(tool.call);
  return how;
}

api_result<std::uint32_t> answer_length(const served_model& m, std::uint32_t fits,
                                        std::size_t prompt_tokens,
                                        std::optional<std::uint32_t> asked,
                                        std::optional<std::uint32_t> fallback,
                                        std::string_view field) {
  if (prompt_tokens >= fits && !(asked == 0u && prompt_tokens == fits))
    return tl::make_unexpected(
        too_long(m, fits, field, "The prompt has " + std::to_string(prompt_tokens) + " tokens."));
  const std::size_t room = fits - prompt_tokens;
  if (!asked && fallback) return static_cast<std::uint32_t>(std::min<std::size_t>(*fallback, room));
  if (!asked) return static_cast<std::uint32_t>(room);
  if (*asked > room)
    return tl::make_unexpected(too_long(m, fits, "max_tokens",
                                        "You asked for " + std::to_string(prompt_tokens + *asked) +
                                            " tokens (" + std::to_string(prompt_tokens) +
                                            " in the prompt, " + std::to_string(*asked) +
                                            " for the answer)."));
  return *asked;
}

}  // namespace troupe::api
