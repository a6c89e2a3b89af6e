#include "model/chat_template.hpp"

#include <nlohmann/json.hpp>

#include "model/jinja_interpreter.hpp"
#include "model/jinja_parser.hpp"

namespace troupe::model {
namespace {

// A template beyond this is not one that a model carries.
constexpr std::size_t max_source_bytes = 1u << 20;

// What a chat looks like, to find out how the template wants its contents.
constexpr std::string_view needle = "<probe of content>";

std::string joined(const std::vector<text_segment>& segments) {
  std::string all;
  for (const text_segment& segment : segments) all += segment.text;
  return all;
}

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != text.npos;
}

class jinja_template final : public chat_template {
 public:
  jinja_template(std::string_view source, std::unique_ptr<const jinja::program> program,
                 template_limits limits)
      : source_(source),
        program_(std::move(program)),
        limits_(limits),
        wants_parts_(find_wants_parts()),
        tools_(find_tool_support()) {}

  result<std::vector<text_segment>> render(const nlohmann::json& context) const override {
    return render_any(context);
  }
  result<std::vector<text_segment>> render_ordered(
      const nlohmann::ordered_json& context) const override {
    return render_any(context);
  }
  bool wants_content_parts() const override { return wants_parts_; }
  tool_support tools() const override { return tools_; }
  bool mentions(std::string_view text) const override { return source_.find(text) != source_.npos; }

 private:
  template <class Json>
  result<std::vector<text_segment>> render_any(const Json& context) const;
  bool shows_content(const nlohmann::json& content) const;
  std::string shown(const nlohmann::json& messages, bool with_tools) const;
  tool_support find_tool_support() const;
  // By trial: a template that shows a string wants strings.
  bool find_wants_parts() const {
    return !shows_content(needle) && shows_content({{{"type", "text"}, {"text", needle}}});
  }

  std::string source_;
  std::unique_ptr<const jinja::program> program_;
  template_limits limits_;
  bool wants_parts_;
  tool_support tools_;
};

// Tokens that the model's file names, as against what the caller wrote.
bool is_from_file(std::string_view key) {
  return key == "bos_token" || key == "eos_token" || key == "pad_token" || key == "unk_token";
}

template <class Json>
result<std::vector<text_segment>> jinja_template::render_any(const Json& context) const {
  if (!context.is_object())
    return fail(ec::invalid_argument, "template: the context is not an object");
  jinja::interpreter interpreter(*program_, limits_);
  for (const auto& [key, item] : context.items()) {
    const auto from = is_from_file(key) ? jinja::origin::source : jinja::origin::data;
    TROUPE_TRY(auto made, jinja::from_json(interpreter, item, from));
    interpreter.define(key, std::move(made));
  }
  TROUPE_TRY(const jinja::text made, interpreter.run());
  std::vector<text_segment> segments;
  std::size_t start = 0;
  for (const auto& run : made.runs()) {
    segments.push_back(
        {made.bytes().substr(start, run.end - start), run.from == jinja::origin::source});
    start = run.end;
  }
  return segments;
}

bool jinja_template::shows_content(const nlohmann::json& content) const {
  const nlohmann::json context = {{"messages", {{{"role", "user"}, {"content", content}}}},
                                  {"bos_token", "<s>"},
                                  {"eos_token", "</s>"},
                                  {"add_generation_prompt", true}};
  const auto segments = render_any(context);
  if (!segments) return false;
  const std::string text = joined(*segments);
  return has(text, needle) && !has(text, "'text'");
}

// Empty where the template refuses.
std::string jinja_template::shown(const nlohmann::json& messages, bool with_tools) const {
  nlohmann::json context = {{"messages", messages},
                            {"bos_token", "<s>"},
                            {"eos_token", "</s>"},
                            {"add_generation_prompt", true}};
  if (with_tools)
    context["tools"] = {
        {{"type", "function"},
         {"function",
          {{"name", "probe_name"},
           {"description", "probe"},
           {"parameters",
            {{"type", "object"}, {"properties", {{"probe_key", {{"type", "string"}}}}}}}}}}};
  const auto segments = render_any(context);
  return segments ? joined(*segments) : std::string();
}

tool_support jinja_template::find_tool_support() const {
  using nlohmann::json;
  const auto content = [this](const char* text) {
    return wants_parts_ ? json({{{"type", "text"}, {"text", text}}}) : json(text);
  };
  json messages = {{{"role", "user"}, {"content", content("probe")}}};
  tool_support found;
  found.tools = has(shown(messages, true), "probe_name");
  const auto conversation = [&](const json& arguments, const json& said) {
    json all = messages;
    // Nine characters are what Mistral's templates insist on.
    all.push_back({{"role", "assistant"},
                   {"content", said},
                   {"tool_calls",
                    {{{"id", "probe0001"},
                      {"type", "function"},
                      {"function", {{"name", "probe_call"}, {"arguments", arguments}}}}}}});
    all.push_back({{"role", "tool"},
                   {"tool_call_id", "probe0001"},
                   {"name", "probe_call"},
                   {"content", content("probe_result")}});
    return shown(all, true);
  };
  const auto complete = [](const std::string& text) {
    // As JSON, or between tags as Qwen3-Coder's template writes it; not as Python would print it.
    return has(text, "probe_call") && has(text, "probe_result") &&
           (has(text, "\"probe_value\"") || has(text, "<parameter=probe_key>\nprobe_value\n"));
  };
  const json object = {{"probe_key", "probe_value"}};
  const bool as_object = complete(conversation(object, content("")));
  found.text_arguments = !as_object && complete(conversation(object.dump(), content("")));
  const std::string without =
      conversation(found.text_arguments ? json(object.dump()) : object, nullptr);
  found.null_content = complete(without) && !has(without, "None");
  found.calls = as_object || found.text_arguments || found.null_content;
  return found;
}

}  // namespace

result<std::shared_ptr<const chat_template>> chat_template::make(std::string_view source,
                                                                 template_limits limits) {
  if (source.size() > max_source_bytes)
    return fail(ec::invalid_argument, "template: longer than 1 MiB");
  TROUPE_TRY(auto program, jinja::parse(source, limits.depth));
  return std::shared_ptr<const chat_template>(
      std::make_shared<jinja_template>(source, std::move(program), limits));
}

}  // namespace troupe::model
