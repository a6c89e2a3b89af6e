#include "engine/structured/schema_merge.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

namespace troupe::engine::structured {
namespace {

using schema = nlohmann::ordered_json;

bool is_annotation(std::string_view key) {
  static constexpr std::array names = {"title",       "description", "default",   "examples",
                                       "$comment",    "$id",         "$schema",   "$defs",
                                       "definitions", "readOnly",    "writeOnly", "deprecated"};
  return std::find(names.begin(), names.end(), key) != names.end();
}

}  // namespace

bool annotations_only(const schema& s) {
  return std::all_of(s.items().begin(), s.items().end(),
                     [](const auto& entry) { return is_annotation(entry.key()); });
}

const schema* find_schema(const schema& root, const std::string& reference) {
  if (!reference.starts_with('#')) return nullptr;
  try {
    return &root.at(schema::json_pointer(reference.substr(1)));
  } catch (const schema::exception&) {
    return nullptr;
  }
}

result<void> merge_schema(schema& into, const schema& from, const schema& root,
                          const std::string& path) {
  const auto wrong = [&](const char* what) {
    return fail(ec::invalid_argument, "json schema: " + path + " " + what);
  };
  const schema* part = &from;
  if (from.is_object() && from.contains("$ref") && !annotations_only(into)) {
    if (!from.at("$ref").is_string() || from.size() != 1)
      return wrong("has a $ref with something beside it");
    part = find_schema(root, from.at("$ref").get<std::string>());
    if (part == nullptr) return wrong("has a $ref that cannot be followed");
  }
  if (part->is_boolean() && part->get<bool>()) return {};
  if (!part->is_object()) return wrong("has an entry that is no schema");
  for (const auto& [key, value] : part->items()) {
    if (!into.contains(key)) {
      into[key] = value;
    } else if (key == "properties" && value.is_object() && into[key].is_object()) {
      for (const auto& [name, of] : value.items()) {
        if (into[key].contains(name) && into[key][name] != of)
          return fail(ec::unsupported,
                      "json schema: " + path + " describes the property " + name + " twice");
        into[key][name] = of;
      }
    } else if (key == "required" && value.is_array() && into[key].is_array()) {
      for (const schema& name : value) into[key].push_back(name);
    } else if (into[key] != value && !is_annotation(key)) {
      return fail(ec::unsupported,
                  "json schema: " + path + " gives " + key + " twice: write one schema");
    }
  }
  return {};
}

schema loosened(const schema& s) {
  schema kept = s;
  for (const char* name : refused_keywords) kept.erase(name);
  if (kept != s) return kept;
  kept = schema::object();
  for (const char* name :
       {"$ref", "type", "enum", "const", "properties", "required", "additionalProperties", "items",
        "prefixItems", "minItems", "maxItems", "minLength", "maxLength"})
    if (s.contains(name) && !kept.contains("$ref")) kept[name] = s.at(name);
  if (kept != s) return kept;
  kept = schema::object();
  if (s.contains("type")) kept["type"] = s.at("type");
  return kept;
}

}  // namespace troupe::engine::structured
