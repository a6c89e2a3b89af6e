// A JSON schema that is part of a larger form: parsed already, with JSON's rules shared. Internal to this folder.
#pragma once

#include <nlohmann/json.hpp>

#include "engine/structured/answer_format.hpp"
#include "engine/structured/json_rules.hpp"

namespace troupe::engine::structured {

// exact: what cannot be kept is refused. loose: it is left out, and everything else is kept (a tool's parameters, unless
// they are declared strict: such schemas are written for people as much as for machines).
enum class schema_rigour : std::uint8_t { exact, loose };

// ec::invalid_argument: not JSON, or nested beyond any schema.
result<nlohmann::ordered_json> parse_schema(std::string_view text);
// For a string's `format`, as an anchored expression (RFC 3339, 4122 and 2673); empty: it has none, or a pattern, or the
// format is a note for the reader, as the standard has it.
std::string_view format_expression(const nlohmann::ordered_json& schema);
rule_result add_schema(grammar_builder& to, json_rules& rules, const nlohmann::ordered_json& root,
                       schema_rigour rigour = schema_rigour::exact);

}  // namespace troupe::engine::structured
