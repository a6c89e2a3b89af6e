#include "api/answer_format_fields.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

namespace troupe::api {
namespace {

using engine::structured::answer_format;
using engine::structured::format_kind;
using nlohmann::json;

// Where a body may hold a schema.
const std::array schema_places = {
    json::json_pointer("/response_format/json_schema/schema"),
    json::json_pointer("/response_format/schema"),
    json::json_pointer("/structured_outputs/json"),
    json::json_pointer("/guided_json"),
    json::json_pointer("/json_schema"),
};

class format_reader {
 public:
  format_reader(field_reader& in, asked_form& to) : in_(in), to_(to) {}

  void read() {
    if (const json* format = in_.find("response_format")) response_format(*format);
    if (const json* all = in_.find("structured_outputs")) structured_outputs(*all);
    for (const char* name : {"guided_json", "json_schema"}) schema(name, in_.find(name));
    for (const char* name : {"guided_grammar", "grammar"})
      text(name, in_.find(name), format_kind::grammar);
    text("guided_regex", in_.find("guided_regex"), format_kind::regex);
    choice("guided_choice", in_.find("guided_choice"));
  }

 private:
  void take(const char* field, format_kind kind, std::string source) {
    if (to_.format.kind != format_kind::text)
      return in_.fail(
          bad_field(field, std::string(field) + " gives the answer a second form: ask for one."));
    to_ = {{kind, std::move(source)}, field};
  }

  void wrong_type(const char* field, const std::string& wanted) {
    in_.fail(bad_field(field, std::string(field) + " must be " + wanted + ".", "invalid_type"));
  }

  // As an object, or as the text of one; llama.cpp's clients send an empty string for none.
  void schema(const char* field, const json* value) {
    if (value == nullptr) return;
    if (value->is_string() && value->get_ref<const std::string&>().empty()) return;
    if (!value->is_string() && !value->is_object() && !value->is_boolean())
      return wrong_type(field, "a JSON schema");
    take(field, format_kind::json_schema,
         value->is_string() ? value->get<std::string>() : value->dump());
  }

  void text(const char* field, const json* value, format_kind kind) {
    if (value == nullptr) return;
    if (!value->is_string()) return wrong_type(field, "a string");
    if (!value->get_ref<const std::string&>().empty()) take(field, kind, value->get<std::string>());
  }

  void choice(const char* field, const json* value) {
    if (value == nullptr) return;
    if (!value->is_array()) return wrong_type(field, "a list of strings");
    take(field, format_kind::choice, value->dump(-1, ' ', false, json::error_handler_t::replace));
  }

  static const json* member(const json& object, const char* name) {
    const auto at = object.find(name);
    return at == object.end() || at->is_null() ? nullptr : &*at;
  }

  void response_format(const json& format) {
    constexpr const char* field = "response_format";
    const json* type = format.is_object() ? member(format, "type") : nullptr;
    if (type == nullptr || !type->is_string()) return wrong_type(field, "an object with a type");
    if (*type == "text") return;
    if (*type == "json_object") {
      if (const json* bare = member(format, "schema")) return schema(field, bare);
      return take(field, format_kind::json_object, {});
    }
    if (*type != "json_schema")
      return in_.fail(
          bad_field(field, "response_format's type must be text, json_object or json_schema."));
    const json* wrapped = member(format, "json_schema");
    const json* inside = wrapped != nullptr && wrapped->is_object() ? member(*wrapped, "schema")
                                                                    : member(format, "schema");
    if (inside == nullptr) return wrong_type(field, "an object with json_schema.schema");
    schema(field, inside);
  }

  void structured_outputs(const json& all) {
    constexpr const char* field = "structured_outputs";
    if (!all.is_object())
      return wrong_type(field, "an object with json, regex, choice, grammar or json_object");
    schema(field, member(all, "json"));
    text(field, member(all, "regex"), format_kind::regex);
    choice(field, member(all, "choice"));
    text(field, member(all, "grammar"), format_kind::grammar);
    const json* object = member(all, "json_object");
    if (object != nullptr && *object == true) take(field, format_kind::json_object, {});
    if (member(all, "structural_tag") != nullptr)
      in_.fail(unsupported_field(field, "structured_outputs.structural_tag is not supported."));
  }

  field_reader& in_;
  asked_form& to_;
};

}  // namespace

void keep_schema_order(json& body, std::string_view raw) {
  nlohmann::ordered_json ordered;
  std::vector<json::json_pointer> places(schema_places.begin(), schema_places.end());
  if (const auto tools = body.find("tools"); tools != body.end() && tools->is_array())
    for (std::size_t i = 0; i < std::min<std::size_t>(tools->size(), 1024); ++i)
      places.push_back(json::json_pointer("/tools") / i / "function" / "parameters");
  for (const auto& place : places) {
    if (!body.contains(place) || !body.at(place).is_object()) continue;
    if (ordered.is_null()) ordered = nlohmann::ordered_json::parse(raw, nullptr, false);
    const nlohmann::ordered_json::json_pointer same(place.to_string());
    if (ordered.contains(same)) body.at(place) = dump(ordered.at(same));
  }
}

void read_answer_format(field_reader& in, asked_form& to) {
  format_reader(in, to).read();
}

api_result<void> check_form(const asked_form& form, const form_observer& observer,
                            const asked_form* inside) {
  const auto begin = std::chrono::steady_clock::now();
  const asked_form* to_blame = &form;
  auto grammar = engine::structured::compile(form.format);
  if (!grammar && inside != nullptr) {
    if (auto alone = engine::structured::compile(inside->format); !alone) {
      grammar = std::move(alone);
      to_blame = inside;
    }
  }
  const auto spent = std::chrono::steady_clock::now() - begin;
  if (observer)
    observer(to_blame->format.kind, grammar.has_value(),
             std::chrono::duration<double>(spent).count());
  if (grammar) return {};
  const auto& [code, detail] = grammar.error();
  return tl::make_unexpected(code == ec::unsupported ? unsupported_field(to_blame->field, detail)
                                                     : bad_field(to_blame->field, detail));
}

}  // namespace troupe::api
