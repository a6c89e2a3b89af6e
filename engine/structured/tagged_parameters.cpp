#include "engine/structured/tagged_parameters.hpp"

#include <algorithm>
#include <array>

#include "engine/structured/byte_search.hpp"
#include "engine/structured/json_schema.hpp"
#include "engine/structured/schema_merge.hpp"

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
    const json* target = name.is_string() ? find_schema(root, name.get<std::string>()) : nullptr;
    if (target == nullptr) break;  // compiling it tells what is wrong
    at = target;
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

// As programs write what may be left open: of an anyOf with null the other; null: it is none.
const json* other_than_null(const json& schema) {
  for (const char* name : {"anyOf", "oneOf"}) {
    if (!schema.is_object() || !schema.contains(name)) continue;
    const json& of = schema[name];
    if (!of.is_array() || of.size() != 2 || is_null(of[0]) == is_null(of[1])) return nullptr;
    return is_null(of[0]) ? &of[1] : &of[0];
  }
  return nullptr;
}

// The object that the arguments are, where it stands behind references or in parts that all hold. What cannot be
// followed stays.
json object_schema(const json& root) {
  json s = root;
  for (int i = 0; i < max_references && s.is_object(); ++i) {
    json beside = s;
    if (s.contains("$ref")) {
      beside.erase("$ref");
      const json target = annotations_only(beside) ? followed(s, root) : s;
      if (target == s) break;
      s = target;
    } else if (s.contains("allOf") && s["allOf"].is_array()) {
      beside.erase("allOf");
      for (const json& part : s["allOf"])
        if (!merge_schema(beside, part, root, "#/allOf")) return s;
      s = std::move(beside);
    } else if (s.contains("anyOf") && s["anyOf"].is_array() && s["anyOf"].size() == 1) {
      beside.erase("anyOf");
      if (!merge_schema(beside, s["anyOf"][0], root, "#/anyOf")) return s;
      s = std::move(beside);
    } else {
      break;
    }
  }
  return s;
}

parameter_form form_of(const json& schema, const json& root, int depth = 0) {
  const json& s = followed(schema, root);
  if (!s.is_object() || depth > max_references) return parameter_form::json;
  if (s.contains("const"))
    return s["const"].is_string() ? parameter_form::text : parameter_form::json;
  if (s.contains("enum"))
    return all_strings(s["enum"]) ? parameter_form::text : parameter_form::json;
  if (s.contains("anyOf") || s.contains("oneOf")) {
    const json* other = other_than_null(s);
    return other != nullptr && form_of(*other, root, depth + 1) == parameter_form::text
               ? parameter_form::text_or_null
               : parameter_form::json;
  }
  const json type = s.value("type", json());
  if (type == "string") return parameter_form::text;
  const bool or_null = type == json{"string", "null"} || type == json{"null", "string"};
  return or_null ? parameter_form::text_or_null : parameter_form::json;
}

class tagged_grammar {
 public:
  tagged_grammar(grammar_builder& to, json_rules& rules, bool strict, const json& root)
      : to_(to), rules_(rules), strict_(strict), root_(root), nothing_(to.literal("")) {
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

  rule_result described(const json& properties, const json& required) {
    std::vector<rule> all;
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
      TROUPE_TRY(const rule r, add_schema(to_, rules_, whole,
                                          strict_ ? schema_rigour::exact : schema_rigour::loose));
      return to_.sequence({r, close});
    }
    std::vector<rule> values;
    const json* s = &followed(schema, root_);
    for (;; s = &followed(*other_than_null(*s), root_)) {
      for (const char* bound : {"pattern", "minLength", "maxLength"})
        if (strict_ && s->contains(bound))
          return fail(ec::unsupported, name + ": " + bound +
                                           " of a string cannot be kept where arguments stand "
                                           "between tags: leave it out, or strict");
      if (s->contains("const") || s->contains("enum") || other_than_null(*s) == nullptr) break;
    }
    if (s->contains("const")) {
      values.push_back(to_.literal((*s)["const"].get<std::string>()));
    } else if (s->contains("enum")) {
      for (const json& v : (*s)["enum"]) values.push_back(to_.literal(v.get<std::string>()));
    } else if (const auto expression = format_expression(*s); !expression.empty()) {
      TROUPE_TRY(const rule r, add_regex(to_, expression, false));
      values.push_back(r);
    }
    if (values.empty()) return text_;
    if (form == parameter_form::text_or_null) values.push_back(to_.literal("null"));
    return to_.sequence({to_.choice(values), close});
  }

  grammar_builder& to_;
  json_rules& rules_;
  const bool strict_;
  const json& root_;  // of references
  const rule nothing_;
  rule text_ = 0;  // and the end of its tag
};

// Nothing stands beside the properties that would not be kept.
result<void> check_kept(const json& object, const json& properties, const json& required) {
  const auto cannot = [](const std::string& what) {
    return fail(ec::unsupported, "json schema: #/" + what +
                                     " cannot be kept where arguments stand between tags: leave "
                                     "it out, or strict");
  };
  for (const char* name : {"$ref", "allOf", "anyOf", "oneOf", "enum", "const"})
    if (object.contains(name)) return cannot(name);
  for (const char* name : refused_keywords)
    if (object.contains(name)) return cannot(name);
  const auto additional = object.find("additionalProperties");
  if (properties.empty() && additional != object.end() && !additional->is_boolean())
    return cannot("additionalProperties");
  for (const json& name : required)
    if (!name.is_string() || !properties.contains(name.get<std::string>()))
      return cannot("required");
  return {};
}

}  // namespace

std::map<std::string, parameter_form> parameter_forms(std::string_view schema) {
  std::map<std::string, parameter_form> forms;
  const json root = json::parse(schema, nullptr, false);
  if (!root.is_object()) return forms;
  const json object = object_schema(root);
  if (!object.is_object()) return forms;
  const json properties = object.value("properties", json::object());
  for (const auto& [name, one] : properties.items()) forms[name] = form_of(one, root);
  return forms;
}

rule_result add_tagged_parameters(grammar_builder& to, json_rules& rules, const callable& tool) {
  const rule end = to.literal(parameters_close);
  if (tool.parameters.empty()) return end;
  TROUPE_TRY(const json root, parse_schema(tool.parameters));
  const json object = object_schema(root);
  if (object.is_object() && object.contains("type") && object["type"] != "object")
    return fail(ec::invalid_argument, "json schema: # is not of type object");
  if (!object.is_object() && object != json(true))
    return fail(ec::invalid_argument, "json schema: # is no schema of an object");
  tagged_grammar parameters(to, rules, tool.strict, root);
  if (!object.is_object()) return to.sequence({parameters.any(), end});
  const bool closed = object.value("additionalProperties", json()) == json(false);
  const auto found = object.find("properties");
  const json properties = found != object.end() ? *found : json::object();
  if (!properties.is_object())
    return fail(ec::invalid_argument, "json schema: #/properties is no object");
  const json required = object.value("required", json::array());
  if (tool.strict) {
    TROUPE_CHECK(check_kept(object, properties, required));
  }
  if (found == object.end() && !closed) return to.sequence({parameters.any(), end});
  TROUPE_TRY(const rule described, parameters.described(properties, required));
  return to.sequence({described, end});
}

}  // namespace troupe::engine::structured
