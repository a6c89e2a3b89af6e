#include "engine/structured/answer_format.hpp"

#include <nlohmann/json.hpp>

#include "engine/structured/grammar.hpp"

namespace troupe::engine::structured {
namespace {

rule_result add_choice(grammar_builder& to, std::string_view source) {
  const auto list = nlohmann::json::parse(source, nullptr, false);
  if (!list.is_array() || list.empty())
    return fail(ec::invalid_argument, "choice: it is not a list of strings with at least one");
  std::vector<grammar_builder::rule> all;
  for (const auto& one : list) {
    if (!one.is_string() || one.get_ref<const std::string&>().empty())
      return fail(ec::invalid_argument, "choice: each must be a string that is not empty");
    all.push_back(to.literal(one.get_ref<const std::string&>()));
  }
  return to.choice(all);
}

}  // namespace

rule_result add_format(grammar_builder& to, const answer_format& format) {
  switch (format.kind) {
    case format_kind::json_object:
      return add_json_object(to);
    case format_kind::json_schema:
      return add_json_schema(to, format.source);
    case format_kind::regex:
      return add_regex(to, format.source);
    case format_kind::choice:
      return add_choice(to, format.source);
    case format_kind::grammar:
      return add_gbnf(to, format.source);
    case format_kind::tool_calls:
      return add_tool_calls(to, format.source);
    case format_kind::text:
      break;
  }
  return fail(ec::invalid_argument, "this form of answer is unknown");
}

result<grammar> compile(const answer_format& format) {
  if (format.source.size() > max_source_bytes)
    return fail(ec::invalid_argument, "the description of the answer's form is longer than " +
                                          std::to_string(max_source_bytes) + " bytes");
  grammar_builder to;
  TROUPE_TRY(const grammar_builder::rule root, add_format(to, format));
  return std::move(to).build(root);
}

}  // namespace troupe::engine::structured
