#include "engine/structured/tool_calls.hpp"

#include <algorithm>

#include "engine/structured/byte_search.hpp"
#include "engine/structured/json_schema.hpp"
#include "engine/structured/tagged_parameters.hpp"

namespace troupe::engine::structured {
namespace {

using json = nlohmann::ordered_json;
using rule = builder_rule;

constexpr std::size_t max_name_bytes = 64;

// A bare call up to the name.
constexpr std::string_view bare_prefixes[] = {"{\"name\": \"", "{\"name\":\"",
                                              "{\"type\": \"function\", \"name\": \""};

class call_grammar {
 public:
  call_grammar(grammar_builder& to, call_syntax syntax, bool parallel)
      : to_(to),
        json_(to),
        syntax_(syntax),
        notation_(notation_of(syntax)),
        parallel_(parallel),
        nothing_(to.literal("")) {}

  result<void> add_tool(const callable& tool) {
    if (notation_.tagged) {
      TROUPE_TRY(const rule all, add_tagged_parameters(to_, json_, tool));
      names_.push_back(to_.sequence({to_.literal(tool.name + ">\n"), all}));
      return {};
    }
    TROUPE_TRY(const rule value, arguments(tool));
    rule rest = to_.sequence({tag(notation_.arguments_key), json_.whitespace, value});
    if (notation_.in_json) {
      rest = to_.sequence(
          {to_.literal(","), json_.whitespace, rest, json_.whitespace, to_.literal("}")});
      names_.push_back(to_.sequence({to_.literal('"' + tool.name + '"'), rest}));
    } else {
      names_.push_back(to_.sequence({to_.literal(tool.name), rest}));
    }
    if (notation_.bare) bare_.emplace_back(tool.name + '"', rest);
    return {};
  }

  // An answer that is calls and nothing else.
  rule required() {
    return to_.sequence(
        {json_.whitespace, notation_.bare ? to_.choice({call(), opened()}) : opened()});
  }

  // Calls behind their mark, or an answer of the form.
  rule apart(rule form) { return to_.choice({form, to_.sequence({json_.whitespace, opened()})}); }

  // Any text; where a call is begun, calls to the end. Right-linear, byte by byte, so nothing is ambiguous: text that begins
  // a call is never text.
  rule allowed() {
    const byte_search find(notation_.open);
    std::vector<rule> states(find.states());
    for (rule& r : states) r = to_.declare();
    states.push_back(after_open());
    const auto go_on = [&](rule from, std::size_t searched, const byte_set& without) {
      find.go_on(to_, from, searched, without, states);
      to_.define(from, nothing_);
    };
    for (std::size_t s = 0; s < find.states(); ++s) go_on(states[s], s, {});
    if (!notation_.bare) return states[0];
    // What begins a bare call holds no beginning of `open`, so where it breaks off the search is at its start.
    const auto break_off = [&](rule from, const byte_set& taken) { go_on(from, 0, taken); };
    std::vector<branch> names = std::move(bare_), beginnings;
    const rule named = tree(names, break_off);
    for (const auto before : bare_prefixes) beginnings.emplace_back(before, named);
    return tree(beginnings, break_off);
  }

 private:
  using branch =
      std::pair<std::string, rule>;  // a text, none the beginning of another, and what follows it

  // The texts byte by byte; where none goes on, `otherwise` adds what may follow.
  template <class Otherwise>
  rule tree(std::vector<branch>& of, const Otherwise& otherwise) {
    std::sort(of.begin(), of.end());
    const auto below = [&](const auto& self, std::size_t first, std::size_t last,
                           std::size_t depth) -> rule {
      if (of[first].first.size() == depth) return of[first].second;
      const rule here = to_.declare();
      byte_set taken;
      for (std::size_t i = first; i < last;) {
        const char c = of[i].first[depth];
        std::size_t end = i;
        while (end < last && of[end].first[depth] == c) ++end;
        byte_set one;
        one.set(static_cast<unsigned char>(c));
        taken |= one;
        to_.define(here, one, self(self, i, end, depth + 1));
        i = end;
      }
      otherwise(here, taken);
      return here;
    };
    return below(below, 0, of.size(), 0);
  }

  // As a special token or spelled.
  rule tag(std::string_view text) {
    if (text.empty()) return nothing_;
    return to_.sequence(
        {to_.optional(to_.literal(std::string_view(&special_mark, 1))), to_.literal(text)});
  }

  rule_result arguments(const callable& tool) {
    const rule none = json_.enclosed('{', nothing_, '}');
    if (tool.parameters.empty()) return none;
    TROUPE_TRY(json schema, parse_schema(tool.parameters));
    if (schema.is_object()) {
      const auto properties = schema.find("properties");
      if (schema.contains("type") && schema["type"] != "object")
        return fail(ec::invalid_argument, "json schema: # is not of type object");
      if (properties != schema.end() && properties->is_object() && properties->empty() &&
          !schema.contains("additionalProperties"))
        return none;
    }
    if (schema == json::object() || schema == json(true)) return json_.object;
    return add_schema(to_, json_, schema,
                      tool.strict ? schema_rigour::exact : schema_rigour::loose);
  }

  rule call() {
    if (call_) return *call_;
    const rule named = to_.choice(names_);
    call_ = named;
    if (notation_.in_json) {
      const rule ws = json_.whitespace;
      rule head = to_.sequence({to_.literal("\"name\":"), ws});
      if (notation_.bare)
        head = to_.sequence({to_.optional(to_.sequence(
                                 {to_.literal("\"type\":"), ws, to_.literal("\"function\","), ws})),
                             head});
      call_ = to_.sequence({to_.literal("{"), ws, head, named});
    }
    return *call_;
  }

  rule opened() { return to_.sequence({tag(notation_.open), after_open()}); }

  // Of several between `open` and `close`.
  rule one_among() {
    const bool fenced = syntax_ == call_syntax::deepseek_v3;
    const rule head =
        fenced ? to_.sequence({to_.literal("function"), tag(notation_.name_key)}) : nothing_;
    return to_.sequence({tag(notation_.call_open), head, call(),
                         fenced ? to_.literal("\n```") : nothing_, tag(notation_.call_close)});
  }

  rule after_open() {
    const rule ws = json_.whitespace;
    switch (syntax_) {
      case call_syntax::hermes: {
        const rule body = to_.sequence({ws, call(), ws, tag(notation_.close)});
        return to_.sequence(
            {body, more(to_.sequence({ws, tag(notation_.open), body})), parallel_ ? ws : nothing_});
      }
      case call_syntax::llama3_json:
        return to_.sequence({ws, call()});
      case call_syntax::mistral:
        return to_.sequence({ws, to_.literal("["), ws, call(),
                             more(to_.sequence({json_.comma, call()})), ws, to_.literal("]")});
      case call_syntax::mistral_args:
        return to_.sequence({call(), more(to_.sequence({tag(notation_.open), call()}))});
      case call_syntax::deepseek_v3:
      case call_syntax::deepseek_v31: {
        const rule one = one_among();
        return to_.sequence({one, more(to_.sequence({to_.optional(to_.literal("\n")), one})),
                             tag(notation_.close)});
      }
      case call_syntax::qwen3_coder: {
        const rule body = to_.sequence(
            {ws, to_.literal(notation_.name_key), call(), to_.literal("\n"), tag(notation_.close)});
        return to_.sequence({body, more(to_.sequence({ws, tag(notation_.open), body}))});
      }
    }
    return nothing_;
  }

  rule more(rule one) { return parallel_ ? to_.repeat(one, 0, -1) : nothing_; }

  grammar_builder& to_;
  json_rules json_;
  const call_syntax syntax_;
  const call_notation& notation_;
  const bool parallel_;
  const rule nothing_;
  std::vector<rule> names_;  // of each tool: its name and all that follows in a call
  std::optional<rule> call_;
  std::vector<branch> bare_;  // of each tool: the end of its name, and all that follows
};

}  // namespace

std::optional<call_syntax> call_syntax_of(std::string_view name) {
  const auto at = std::find(std::begin(call_syntax_names), std::end(call_syntax_names), name);
  if (at == std::end(call_syntax_names)) return std::nullopt;
  return static_cast<call_syntax>(at - std::begin(call_syntax_names));
}

const call_notation& notation_of(call_syntax syntax) {
  static constexpr call_notation notations[] = {
      {"<tool_call>", "</tool_call>", "\"arguments\":", true, false},
      {"<|python_tag|>", "", "\"parameters\":", true, true},
      {"[TOOL_CALLS]", "", "\"arguments\":", true, false},
      {"[TOOL_CALLS]", "", "[ARGS]", false, false},
      {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "\n```json\n", false, false,
       "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"},
      {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁sep｜>", false, false,
       "<｜tool▁call▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"},
      {"<tool_call>", "</tool_call>", ">\n", false, false, "<function=", "", "", true},
  };
  return notations[static_cast<std::size_t>(syntax)];
}

bool is_callable_name(std::string_view name) {
  return !name.empty() && name.size() <= max_name_bytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                  c == '_' || c == '-';
         });
}

std::vector<std::string> bare_beginnings(const call_notation& notation, std::string_view name) {
  std::vector<std::string> all;
  if (!notation.bare) return all;
  for (const auto before : bare_prefixes)
    all.push_back(std::string(before) + std::string(name) + '"');
  return all;
}

answer_format to_format(const tool_call_form& form) {
  json tools = json::array();
  for (const callable& tool : form.tools)
    tools.push_back(
        {{"name", tool.name}, {"strict", tool.strict}, {"parameters", tool.parameters}});
  json whole = {{"syntax", call_syntax_names[static_cast<std::size_t>(form.syntax)]},
                {"required", form.required},
                {"parallel", form.parallel},
                {"tools", std::move(tools)}};
  if (form.otherwise.kind != format_kind::text)
    whole["otherwise"] = {
        {"kind", format_kind_names[static_cast<std::size_t>(form.otherwise.kind)]},
        {"source", form.otherwise.source}};
  return {format_kind::tool_calls, whole.dump(-1, ' ', false, json::error_handler_t::replace)};
}

namespace {

// Never one of calls again.
std::optional<answer_format> form_inside(const json& value) {
  if (!value.is_object()) return std::nullopt;
  const json kind = value.value("kind", json()), source = value.value("source", json());
  if (!kind.is_string() || !source.is_string()) return std::nullopt;
  const auto end = std::end(format_kind_names) - 1;
  const auto at = std::find(std::begin(format_kind_names), end, kind.get<std::string>());
  if (at == end || at == std::begin(format_kind_names)) return std::nullopt;
  return answer_format{static_cast<format_kind>(at - std::begin(format_kind_names)),
                       source.get<std::string>()};
}

}  // namespace

rule_result add_tool_calls(grammar_builder& to, std::string_view source) {
  const auto malformed = [] {
    return fail(ec::invalid_argument, "tool calls: the form is malformed");
  };
  const json form = json::parse(source, nullptr, false);
  if (!form.is_object()) return malformed();
  const auto flag = [&](const json& of, const char* name) {
    return of.value(name, json()) == true;
  };
  const json name = form.value("syntax", json()), tools = form.value("tools", json());
  const auto syntax = name.is_string() ? call_syntax_of(name.get<std::string>()) : std::nullopt;
  if (!syntax || !tools.is_array() || tools.empty()) return malformed();
  call_grammar calls(to, *syntax, flag(form, "parallel"));
  for (const json& one : tools) {
    if (!one.is_object() || !one.value("name", json()).is_string() ||
        !one.value("parameters", json()).is_string())
      return malformed();
    const callable tool{one["name"].get<std::string>(), one["parameters"].get<std::string>(),
                        flag(one, "strict")};
    if (!is_callable_name(tool.name)) return malformed();
    if (auto added = calls.add_tool(tool); !added)
      return fail(added.error().code, "tool " + tool.name + ": " + added.error().detail);
  }
  if (flag(form, "required")) return calls.required();
  if (!form.contains("otherwise")) return calls.allowed();
  const auto other = form_inside(form["otherwise"]);
  if (!other) return malformed();
  TROUPE_TRY(const rule text, add_format(to, *other));
  return calls.apart(text);
}

}  // namespace troupe::engine::structured
