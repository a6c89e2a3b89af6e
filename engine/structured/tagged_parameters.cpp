#include "engine/structured/tagged_parameters.hpp"

#include <algorithm>
#include <array>

#include "engine/structured/byte_search.hpp"
#include "engine/structured/json_schema.hpp"

namespace troupe::engine::structured {
namespace {

using json = nlohmann::ordered_json;
using rule = builder_rule;

constexpr int max_references = 16;

// What a schema's reference names, as long as it is one.
const json& followed(const json& schema, const json& root) {
  const json* at = &schema;
  for (int i = 0; i < max_references && at->is_object() && at->contains("$ref"); ++i) {
    const json& name = at->at("$ref");
    if (!name.is_string() || !name.get_ref<const std::string&>().starts_with("#/")) break;
    try {
      at = &root.at(json::json_pointer(name.get_ref<const std::string&>().substr(1)));
    } catch (const json::exception&) {
      break;  // compiling it tells what is wrong
    }
  }
  return *at;
}

bool is_null(const json& schema) {
  return schema.is_object() && schema.value("type", json()) == "null";
}

bool all_strings(const json& list) {
  return list.is_array() && !list.empty() &&
         std::all_of(list.begin(), list.end(), [](const json& v) { return v.is_string(); });
}

parameter_form form_of(const json& schema, const json& root, int depth = 0) {
  const json& s = followed(schema, root);
  if (!s.is_object() || depth > max_references) return parameter_form::json;
  if (s.contains("const"))
    return s["const"].is_string() ? parameter_form::text : parameter_form::json;
  if (s.contains("enum"))
    return all_strings(s["enum"]) ? parameter_form::text : parameter_form::json;
  // As programs write a string that may be left open.
  for (const char* name : {"anyOf", "oneOf"}) {
    if (!s.contains(name)) continue;
    const json& of = s[name];
    if (!of.is_array() || of.size() != 2 || is_null(of[0]) == is_null(of[1]))
      return parameter_form::json;
    const json& other = is_null(of[0]) ? of[1] : of[0];
    return form_of(other, root, depth + 1) == parameter_form::text ? parameter_form::text_or_null
                                                                   : parameter_form::json;
  }
  const json type = s.value("type", json());
  if (type == "string") return parameter_form::text;
  const bool or_null = type == json{"string", "null"} || type == json{"null", "string"};
  return or_null ? parameter_form::text_or_null : parameter_form::json;
}

class tagged_grammar {
 public:
  tagged_grammar(grammar_builder& to, json_rules& rules, const callable& tool, const json& root)
      : to_(to), rules_(rules), tool_(tool), root_(root), nothing_(to.literal("")) {
    const byte_search find(parameter_close);
    byte_set special;
    special.set(static_cast<unsigned char>(special_mark));
    text_ = find.until(to, nothing_, special);
  }

  // Names and values as the model likes.
  rule any() {
    const rule name = to_.one_of({{'0', '9'}, {'A', 'Z'}, {'a', 'z'}, {'_', '_'}, {'-', '-'}});
    return to_.repeat(tagged(to_.repeat(name, 1, 64), text_), 0, -1);
  }

  rule_result described(const json& properties) {
    std::vector<rule> all;
    const json required = root_.value("required", json::array());
    for (const auto& [name, schema] : properties.items()) {
      TROUPE_TRY(const rule body, value(name, schema));
      const rule one = tagged(to_.literal(name), body);
      const bool must = std::find(required.begin(), required.end(), name) != required.end();
      all.push_back(must ? one : to_.optional(one));
    }
    return to_.sequence(all);
  }

 private:
  rule tagged(rule name, rule body_and_close) {
    return to_.sequence({to_.literal(parameter_open), name, to_.literal(parameter_name_end),
                         body_and_close, to_.literal("\n")});
  }

  rule_result value(const std::string& name, const json& schema) {
    const auto form = form_of(schema, root_);
    const rule close = to_.literal(parameter_close);
    if (form == parameter_form::json) {
      json whole = schema;
      for (const char* shared : {"$defs", "definitions"})
        if (whole.is_object() && root_.contains(shared)) whole[shared] = root_[shared];
      TROUPE_TRY(const rule r,
                 add_schema(to_, rules_, whole,
                            tool_.strict ? schema_rigour::exact : schema_rigour::loose));
      return to_.sequence({r, close});
    }
    const json& s = followed(schema, root_);
    for (const char* bound : {"pattern", "minLength", "maxLength"})
      if (tool_.strict && s.contains(bound))
        return fail(ec::unsupported, name + ": " + bound +
                                         " of a string cannot be kept where arguments stand "
                                         "between tags: leave it out, or strict");
    std::vector<rule> values;
    if (s.contains("const")) values.push_back(to_.literal(s["const"].get<std::string>()));
    if (s.contains("enum") && values.empty())
      for (const json& v : s["enum"]) values.push_back(to_.literal(v.get<std::string>()));
    return values.empty() ? text_ : to_.sequence({to_.choice(values), close});
  }

  grammar_builder& to_;
  json_rules& rules_;
  const callable& tool_;
  const json& root_;
  const rule nothing_;
  rule text_ = 0;  // and the end of its tag
};

}  // namespace

std::map<std::string, parameter_form> parameter_forms(std::string_view schema) {
  std::map<std::string, parameter_form> forms;
  const json root = json::parse(schema, nullptr, false);
  if (!root.is_object()) return forms;
  const json properties = root.value("properties", json::object());
  for (const auto& [name, one] : properties.items()) forms[name] = form_of(one, root);
  return forms;
}

rule_result add_tagged_parameters(grammar_builder& to, json_rules& rules, const callable& tool) {
  const rule end = to.literal(parameters_close);
  if (tool.parameters.empty()) return end;
  TROUPE_TRY(const json root, parse_schema(tool.parameters));
  if (root.is_object() && root.contains("type") && root["type"] != "object")
    return fail(ec::invalid_argument, "json schema: # is not of type object");
  if (!root.is_object() && root != json(true))
    return fail(ec::invalid_argument, "json schema: # is no schema of an object");
  tagged_grammar parameters(to, rules, tool, root);
  const auto properties = root.is_object() ? root.find("properties") : root.end();
  if (properties == root.end()) return to.sequence({parameters.any(), end});
  if (!properties->is_object())
    return fail(ec::invalid_argument, "json schema: #/properties is no object");
  TROUPE_TRY(const rule described, parameters.described(*properties));
  return to.sequence({described, end});
}

}  // namespace troupe::engine::structured
