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

class jinja_template final : public chat_template {
 public:
  jinja_template(std::unique_ptr<const jinja::program> program, template_limits limits)
      : program_(std::move(program)), limits_(limits), wants_parts_(find_wants_parts()) {}

  result<std::vector<text_segment>> render(const nlohmann::json& context) const override {
    return render_any(context);
  }
  result<std::vector<text_segment>> render_ordered(
      const nlohmann::ordered_json& context) const override {
    return render_any(context);
  }
  bool wants_content_parts() const override { return wants_parts_; }

 private:
  template <class Json>
  result<std::vector<text_segment>> render_any(const Json& context) const;
  bool shows_content(const nlohmann::json& content) const;
  // By trial: a template that shows a string wants strings.
  bool find_wants_parts() const {
    return !shows_content(needle) && shows_content({{{"type", "text"}, {"text", needle}}});
  }

  std::unique_ptr<const jinja::program> program_;
  template_limits limits_;
  bool wants_parts_;
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
  std::string joined;
  for (const text_segment& segment : *segments) joined += segment.text;
  return joined.find(needle) != joined.npos && joined.find("'text'") == joined.npos;
}

}  // namespace

result<std::shared_ptr<const chat_template>> chat_template::make(std::string_view source,
                                                                 template_limits limits) {
  if (source.size() > max_source_bytes)
    return fail(ec::invalid_argument, "template: longer than 1 MiB");
  TROUPE_TRY(auto program, jinja::parse(source, limits.depth));
  return std::shared_ptr<const chat_template>(
      std::make_shared<jinja_template>(std::move(program), limits));
}

}  // namespace troupe::model
