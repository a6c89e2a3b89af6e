#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "engine/structured/json_schema.hpp"

#include "engine/structured/answer_format.hpp"
#include "engine/structured/integer_range.hpp"
#include "engine/structured/schema_merge.hpp"

namespace troupe::engine::structured {
namespace {

using json = nlohmann::ordered_json;
using rule = builder_rule;

// Of a form: alternatives within alternatives, and parts that are merged into each, multiply.
constexpr std::uint32_t max_schemas = 50'000;

class schema_compiler {
 public:
  schema_compiler(grammar_builder& to, json_rules& rules, const json& root, schema_rigour rigour)
      : to_(to), rules_(rules), root_(root), loose_(rigour == schema_rigour::loose) {}

  rule_result compile(const json& s, const std::string& path, int depth) {
    if (depth > max_source_depth) return wrong(path, "is nested too deeply");
    if (++rules_.schemas > max_schemas)
      return fail(ec::invalid_argument, "json schema: it unfolds to more than " +
                                            std::to_string(max_schemas) +
                                            " schemas: use fewer alternatives");
    rule_result exact = compile_exactly(s, path, depth);
    if (exact || !loose_ || exact.error().code != ec::unsupported) return exact;
    const json kept = loosened(s);
    return kept == s ? exact : compile(kept, path, depth + 1);
  }

 private:
  rule_result compile_exactly(const json& s, const std::string& path, int depth) {
    if (s.is_boolean()) {
      if (!s.get<bool>()) return wrong(path, "is false: nothing could be answered");
      return rules_.value;
    }
    if (!s.is_object()) return wrong(path, "is neither an object nor a boolean");
    for (const char* name : refused_keywords)
      if (const auto at = s.find(name); at != s.end() && !(at->is_boolean() && !at->get<bool>()))
        return fail(
            ec::unsupported,
            "json schema: " + path + "/" + name +
                " cannot be kept while text is generated: leave it out and check the answer");
    if (s.contains("$ref")) {
      json beside = s;
      beside.erase("$ref");
      if (!annotations_only(beside))
        return fail(
            ec::unsupported,
            "json schema: " + path + " has a $ref with constraints beside it: write one schema");
      return reference(s.at("$ref"), path, depth);
    }
    if (s.contains("const")) return to_.literal(s.at("const").dump());
    if (s.contains("enum")) return enumeration(s.at("enum"), path);
    for (const char* name : {"anyOf", "oneOf"})
      if (s.contains(name)) return any_of(s, name, path, depth);
    if (s.contains("allOf")) return all_of(s, path, depth);
    if (!s.contains("type")) return untyped(s, path, depth);
    const json& type = s.at("type");
    if (type.is_string()) return typed(s, type.get<std::string>(), path, depth);
    if (!type.is_array() || type.empty())
      return wrong(path + "/type", "is neither a type nor a list of types");
    std::vector<rule> all;
    for (const json& one : type) {
      if (!one.is_string()) return wrong(path + "/type", "has an entry that is no string");
      TROUPE_TRY(const rule r, typed(s, one.get<std::string>(), path, depth));
      all.push_back(r);
    }
    return to_.choice(all);
  }

  static tl::unexpected<error> wrong(const std::string& path, const std::string& what) {
    return fail(ec::invalid_argument, "json schema: " + path + " " + what);
  }

  // Within this document; each target is compiled once, so schemas may contain themselves.
  rule_result reference(const json& to, const std::string& path, int depth) {
    if (!to.is_string()) return wrong(path + "/$ref", "is no string");
    const auto name = to.get<std::string>();
    if (name != "#" && !name.starts_with("#/"))
      return fail(
          ec::unsupported,
          "json schema: " + path + "/$ref: only references within the schema (#/...) are followed");
    const auto known = references_.find(name);
    if (known != references_.end()) return known->second;
    const json* target = find_schema(root_, name);
    if (target == nullptr) return wrong(path + "/$ref", "names " + name + ", which is not there");
    const rule declared = to_.declare();
    references_.emplace(name, declared);
    TROUPE_TRY(const rule body, compile(*target, name, depth + 1));
    to_.define(declared, body);
    return declared;
  }

  rule_result enumeration(const json& values, const std::string& path) {
    if (!values.is_array() || values.empty()) return wrong(path + "/enum", "is no list of values");
    std::vector<rule> all;
    for (const json& v : values) all.push_back(to_.literal(v.dump()));
    return to_.choice(all);
  }

  // What stands beside it holds as well, so it goes into each alternative.
  rule_result any_of(const json& s, const std::string& name, const std::string& path, int depth) {
    const json& list = s.at(name);
    if (!list.is_array() || list.empty()) return wrong(path + "/" + name, "is no list of schemas");
    std::vector<rule> all;
    for (std::size_t i = 0; i < list.size(); ++i) {
      json one = s;
      one.erase(name);
      one.erase("$defs");  // found in the root, and much to copy
      TROUPE_CHECK(merge_schema(one, list[i], root_, path + "/" + name));
      TROUPE_TRY(const rule r,
                 compile(one, path + "/" + name + "/" + std::to_string(i), depth + 1));
      all.push_back(r);
    }
    return to_.choice(all);
  }

  rule_result all_of(const json& s, const std::string& path, int depth) {
    json merged = s;
    merged.erase("allOf");
    if (!s.at("allOf").is_array()) return wrong(path + "/allOf", "is no list of schemas");
    for (const json& part : s.at("allOf"))
      TROUPE_CHECK(merge_schema(merged, part, root_, path + "/allOf"));
    return compile(merged, path, depth + 1);
  }

  rule_result untyped(const json& s, const std::string& path, int depth) {
    const auto has = [&](std::initializer_list<const char*> names) {
      return std::any_of(names.begin(), names.end(), [&](const char* n) { return s.contains(n); });
    };
    if (has({"properties", "required", "additionalProperties"})) return object(s, path, depth);
    if (has({"items", "prefixItems", "minItems", "maxItems"})) return array(s, path, depth);
    if (has({"pattern", "minLength", "maxLength"})) return string(s, path);
    if (has({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}))
      return wrong(path, "bounds a value without a type: add \"type\": \"integer\"");
    return rules_.value;
  }

  rule_result typed(const json& s, const std::string& type, const std::string& path, int depth) {
    if (type == "object") return object(s, path, depth);
    if (type == "array") return array(s, path, depth);
    if (type == "string") return string(s, path);
    if (type == "integer") return integer(s, path);
    if (type == "number") return number(s, path);
    if (type == "boolean") return rules_.boolean;
    if (type == "null") return rules_.null;
    return wrong(path + "/type", "is unknown: " + type);
  }

  result<std::optional<std::uint32_t>> count(const json& s, const char* name,
                                             const std::string& path) {
    const auto at = s.find(name);
    if (at == s.end()) return std::nullopt;
    if (!at->is_number_unsigned() || at->get<std::uint64_t>() > max_symbols)
      return wrong(path + "/" + name,
                   "is not a whole number from 0 to " + std::to_string(max_symbols));
    return at->get<std::uint32_t>();
  }

  rule_result string(const json& s, const std::string& path) {
    TROUPE_TRY(const auto least, count(s, "minLength", path));
    TROUPE_TRY(const auto most, count(s, "maxLength", path));
    if (least && most && *least > *most) return wrong(path, "has minLength above maxLength");
    const rule quote = to_.literal("\"");
    const auto quoted = [&](rule inside) { return to_.sequence({quote, inside, quote}); };
    const auto pattern = s.find("pattern");
    std::string_view expression = format_expression(s);
    if (pattern != s.end()) {
      if (!pattern->is_string()) return wrong(path + "/pattern", "is no string");
      expression = pattern->get_ref<const std::string&>();
    }
    if (!expression.empty()) {
      if (least || most)
        return fail(ec::unsupported, "json schema: " + path +
                                         ": a length beside a pattern: put it into the pattern");
      TROUPE_TRY(const rule inside, add_regex(to_, expression, true));
      return quoted(inside);
    }
    if (!least && !most) return rules_.string;
    return quoted(to_.repeat(rules_.character, least.value_or(0), most ? std::int64_t{*most} : -1));
  }

  rule_result integer(const json& s, const std::string& path) {
    constexpr std::int64_t limit = 999'999'999'999'999'999;
    constexpr double max_exact = 1e15;
    std::int64_t low = -limit, high = limit;
    bool bounded = false;
    const auto bound = [&](const char* name, std::int64_t& to, std::int64_t shift,
                           bool lower) -> result<void> {
      const auto at = s.find(name);
      if (at == s.end()) return {};
      const double value =
          at->is_number() ? at->get<double>() : std::numeric_limits<double>::quiet_NaN();
      // Where doubles have gaps a bound beyond what is written anyway says nothing ("any safe integer").
      if (std::abs(value) >= max_exact && (value < 0) == lower) return {};
      if (!(std::abs(value) < max_exact))
        return wrong(path + "/" + name, "is no number of less than 16 digits");
      auto whole = static_cast<std::int64_t>(lower ? std::ceil(value) : std::floor(value));
      if (static_cast<double>(whole) == value) whole += shift;
      to = lower ? std::max(to, whole) : std::min(to, whole);
      bounded = true;
      return {};
    };
    TROUPE_CHECK(bound("minimum", low, 0, true));
    TROUPE_CHECK(bound("exclusiveMinimum", low, 1, true));
    TROUPE_CHECK(bound("maximum", high, 0, false));
    TROUPE_CHECK(bound("exclusiveMaximum", high, -1, false));
    if (!bounded) return rules_.integer;
    if (low > high) return wrong(path, "has a minimum above its maximum");
    return add_integer_range(to_, low, high);
  }

  rule_result number(const json& s, const std::string& path) {
    for (const char* name : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
      if (s.contains(name) && !loose_)
        return fail(ec::unsupported, "json schema: " + path + "/" + name +
                                         ": bounds of numbers with fractions cannot be kept: use "
                                         "an integer, or leave it out");
    return rules_.number;
  }

  rule_result array(const json& s, const std::string& path, int depth) {
    TROUPE_TRY(const auto least_given, count(s, "minItems", path));
    TROUPE_TRY(const auto most, count(s, "maxItems", path));
    const std::uint32_t least = least_given.value_or(0);
    if (most && least > *most) return wrong(path, "has minItems above maxItems");
    std::vector<rule> fixed;
    if (s.contains("prefixItems")) {
      const json& list = s.at("prefixItems");
      if (!list.is_array()) return wrong(path + "/prefixItems", "is no list of schemas");
      for (const json& one : list) {
        TROUPE_TRY(const rule r, compile(one, path + "/prefixItems", depth + 1));
        fixed.push_back(r);
      }
    }
    rule rest = rules_.value;
    // As for objects: a list that is described is not longer than its description.
    bool open = fixed.empty();
    if (s.contains("items")) {
      open = !(s.at("items").is_boolean() && !s.at("items").get<bool>());
      if (open) {
        TROUPE_TRY(rest, compile(s.at("items"), path + "/items", depth + 1));
      }
    }
    // From the end: what may follow when i items are there.
    const auto n = static_cast<std::uint32_t>(fixed.size());
    if (!open && least > n) return wrong(path, "wants more items than it describes");
    const auto later = [&](rule item) { return to_.sequence({rules_.comma, item}); };
    const std::uint32_t from = std::max(n, 1u);
    rule after = to_.literal("");
    if (open) {
      const std::int64_t more = most ? std::max<std::int64_t>(0, std::int64_t{*most} - from) : -1;
      after = to_.repeat(later(rest), least > from ? least - from : 0, more);
    }
    for (std::uint32_t i = n; i-- > 1;) {
      if (most && i >= *most) continue;
      const rule one = to_.sequence({later(fixed[i]), after});
      after = i >= least ? to_.choice({to_.literal(""), one}) : one;
    }
    rule items = to_.literal("");
    if ((n > 0 || open) && (!most || *most > 0)) {
      items = to_.sequence({n > 0 ? fixed[0] : rest, after});
      if (least == 0) items = to_.optional(items);
    }
    return rules_.enclosed('[', items, ']');
  }

  // Strings between quotes that are none of the names: a tree of their characters, left where no name goes on.
  rule other_names(const std::vector<std::string>& names) {
    const std::function<rule(const std::vector<std::string>&)> below =
        [&](const std::vector<std::string>& ends) {
          std::map<unsigned char, std::vector<std::string>> next;
          bool is_name = false;
          for (const std::string& e : ends) {
            if (e.empty())
              is_name = true;
            else
              next[static_cast<unsigned char>(e[0])].push_back(e.substr(1));
          }
          code_points taken = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
          std::vector<rule> all;
          for (const auto& [c, rest] : next) {
            // Of a name beyond ASCII every character of its first byte's kind is excluded.
            if (c < 0x80) {
              taken.emplace_back(c, c);
              all.push_back(to_.sequence({to_.one_of({{c, c}}), below(rest)}));
            } else {
              taken.emplace_back(0x80, last_code_point);
            }
          }
          all.push_back(
              to_.sequence({to_.one_of(complement(taken)), to_.repeat(rules_.character, 0, -1)}));
          if (!is_name && !ends.empty() && &ends != &names) all.push_back(to_.literal(""));
          return to_.choice(all);
        };
    const rule quote = to_.literal("\"");
    return to_.sequence({quote, below(names), quote});
  }

  rule_result object(const json& s, const std::string& path, int depth) {
    const json none = json::object();
    const json& properties = s.contains("properties") ? s.at("properties") : none;
    if (!properties.is_object()) return wrong(path + "/properties", "is no object");
    std::set<std::string> required;
    if (s.contains("required")) {
      if (!s.at("required").is_array()) return wrong(path + "/required", "is no list of names");
      for (const json& name : s.at("required")) {
        if (!name.is_string()) return wrong(path + "/required", "has an entry that is no string");
        required.insert(name.get<std::string>());
      }
    }
    const auto additional = s.find("additionalProperties");
    const bool described = !properties.empty() || additional != s.end();
    if (!described && (required.empty() || loose_)) return rules_.object;
    for (const std::string& name : required)
      if (!properties.contains(name) && !loose_)
        return wrong(path + "/required", "names " + name + ", which is not among the properties");
    std::vector<std::string> names;
    std::vector<rule> members;
    for (const auto& [name, of] : properties.items()) {
      TROUPE_TRY(const rule value, compile(of, path + "/properties/" + name, depth + 1));
      names.push_back(name);
      members.push_back(rules_.member(to_.literal(json(name).dump()), value));
    }
    rule first = to_.literal(""),
         later = first;  // what may come when none, or some, stand before it
    if (additional != s.end() && !(additional->is_boolean() && !additional->get<bool>())) {
      TROUPE_TRY(const rule value, compile(*additional, path + "/additionalProperties", depth + 1));
      const rule extra = rules_.member(other_names(names), value);
      later = to_.repeat(to_.sequence({rules_.comma, extra}), 0, -1);
      first = to_.optional(to_.sequence({extra, later}));
    }
    for (std::size_t i = members.size(); i-- > 0;) {
      const rule here_first = to_.sequence({members[i], later});
      const rule here_later = to_.sequence({rules_.comma, members[i], later});
      const bool needed = required.contains(names[i]);
      first = needed ? here_first : to_.choice({here_first, first});
      later = needed ? here_later : to_.choice({here_later, later});
    }
    return rules_.enclosed('{', first, '}');
  }

  grammar_builder& to_;
  json_rules& rules_;
  const json& root_;
  const bool loose_;
  std::map<std::string, rule> references_;
};

}  // namespace

std::string_view format_expression(const nlohmann::ordered_json& schema) {
  const auto format = schema.find("format");
  if (schema.contains("pattern") || format == schema.end() || !format->is_string()) return {};
  const std::string& name = format->get_ref<const std::string&>();
#define TROUPE_DATE "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
#define TROUPE_TIME \
  "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define TROUPE_BYTE "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
  if (name == "date") return "^" TROUPE_DATE "$";
  if (name == "time") return "^" TROUPE_TIME "$";
  if (name == "date-time") return "^" TROUPE_DATE "T" TROUPE_TIME "$";
  if (name == "uuid") return "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";
  if (name == "ipv4") return "^" TROUPE_BYTE "(\\." TROUPE_BYTE "){3}$";
  return {};
#undef TROUPE_DATE
#undef TROUPE_TIME
#undef TROUPE_BYTE
}

result<json> parse_schema(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') ++i;
    if (c == '"') in_string = !in_string;
    if (in_string) continue;
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (depth > 4 * max_source_depth)
      return fail(ec::invalid_argument, "json schema: it is nested too deeply");
  }
  json root = json::parse(text, nullptr, false);
  if (root.is_discarded()) return fail(ec::invalid_argument, "json schema: it is not JSON");
  return root;
}

rule_result add_json_schema(grammar_builder& to, std::string_view schema) {
  TROUPE_TRY(const json root, parse_schema(schema));
  json_rules rules(to);
  return add_schema(to, rules, root);
}

rule_result add_schema(grammar_builder& to, json_rules& rules, const nlohmann::ordered_json& root,
                       schema_rigour rigour) {
  return schema_compiler(to, rules, root, rigour).compile(root, "#", 0);
}

rule_result add_json_object(grammar_builder& to) {
  return json_rules(to).object;
}

}  // namespace troupe::engine::structured
