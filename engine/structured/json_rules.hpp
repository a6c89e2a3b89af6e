// JSON's own grammar (RFC 8259), with white space as programs write it: none, one blank, or a new line and its indentation.
// Internal to this folder.
#pragma once

#include "engine/structured/grammar.hpp"

namespace troupe::engine::structured {

using builder_rule = grammar_builder::rule;

// One of the characters as it is written between quotes, escaped where it must be.
builder_rule json_characters(grammar_builder& to, const code_points& set);
// Any character, escaped or not; lone surrogates are excluded.
builder_rule json_character(grammar_builder& to);

// The rules that most schemas need, each made once.
class json_rules {
 public:
  explicit json_rules(grammar_builder& to);

  builder_rule whitespace, character, string, integer, number, boolean, null, value, object, array;

  // `{` members `}` and the like; each part is preceded by white space where that is allowed.
  builder_rule enclosed(char open, builder_rule inside, char close);
  builder_rule member(builder_rule key, builder_rule of);
  builder_rule comma;  // and the white space behind it

  std::uint32_t schemas = 0;  // compiled with these rules so far

 private:
  grammar_builder& to_;
};

}  // namespace troupe::engine::structured
