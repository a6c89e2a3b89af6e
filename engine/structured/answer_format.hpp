// What form an answer must have, as a client asks for it, and its grammar.
//
// Whatever cannot be kept to the letter is refused: an unknown keyword that would bend the answer is an error, never
// ignored. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/structured/grammar.hpp"

namespace troupe::engine::structured {

enum class format_kind : std::uint8_t {
  text,
  json_object,
  json_schema,
  regex,
  choice,
  grammar,
  tool_calls
};

// In their order; tool_calls last.
inline constexpr std::string_view format_kind_names[] = {
    "text", "json_object", "json_schema", "regex", "choice", "grammar", "tool_calls"};

struct answer_format {
  format_kind kind = format_kind::text;
  // json_schema: the schema. regex: the expression, for the whole answer. choice: a JSON array of strings. grammar: GBNF.
  // tool_calls: as `to_source` (tool_calls.hpp) writes it.
  std::string source;
  friend bool operator==(const answer_format&, const answer_format&) = default;
};

inline constexpr std::size_t max_source_bytes = 256 * 1024;
inline constexpr int max_source_depth = 64;

// ec::invalid_argument, ec::unsupported: what is wrong, where, and what to write instead. REQUIRES: kind is not text.
result<grammar> compile(const answer_format& format);

// The parts of compile. Each gives a rule of `to`.
using rule_result = result<grammar_builder::rule>;
rule_result add_format(grammar_builder& to, const answer_format& format);
// https://json-schema.org/draft/2020-12: types, properties, items, enum, const, anyOf, $ref, lengths, integer ranges, pattern.
rule_result add_json_schema(grammar_builder& to, std::string_view schema);
rule_result add_json_object(grammar_builder& to);
// Without look-around and back references. `inside_json_string`: matches the characters of a JSON string as they are
// written there, anywhere in it unless anchored (JSON schema's `pattern`); else the whole text.
rule_result add_regex(grammar_builder& to, std::string_view expression,
                      bool inside_json_string = false);
// https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
rule_result add_gbnf(grammar_builder& to, std::string_view source);
rule_result add_tool_calls(grammar_builder& to, std::string_view source);

}  // namespace troupe::engine::structured
