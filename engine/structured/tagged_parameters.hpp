// Arguments of a call that are written one by one between tags, as Qwen3-Coder does:
//
//   <parameter=city>
//   Bonn
//   </parameter>
//
// A string stands there as it is, without quotes and escapes; anything else as JSON. Which of both is a property of the
// tool's schema that the grammar and the reader of answers (api/parameter_reader) must see alike. Plain functions.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "engine/structured/json_rules.hpp"
#include "engine/structured/tool_calls.hpp"

namespace troupe::engine::structured {

inline constexpr std::string_view parameter_open = "<parameter=", parameter_name_end = ">\n",
                                  parameter_close = "\n</parameter>",
                                  parameters_close = "</function>";

enum class parameter_form : std::uint8_t { json, text, text_or_null };

// By name, of what the schema describes; a parameter that is not there is text.
std::map<std::string, parameter_form> parameter_forms(std::string_view schema);

// All of a call behind its name's tag. In the order of the schema; those that are not required may be left out.
rule_result add_tagged_parameters(grammar_builder& to, json_rules& rules, const callable& tool);

}  // namespace troupe::engine::structured
