// Cuts a template into tokens, after jinja2's lexer with trim_blocks and lstrip_blocks on, which is how
// `transformers` renders chat templates (https://jinja.palletsprojects.com/en/stable/templates/#whitespace-control).
// Pure function, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace troupe::model::jinja {

struct position {
  std::uint32_t line = 1, column = 1;  // of a byte, from 1
};
std::string to_string(position at);  // "line 3, column 14"

enum class token_type : std::uint8_t {
  text,          // outside of tags, whitespace already stripped
  output_begin,  // {{
  output_end,
  block_begin,  // {%
  block_end,
  name,
  string,  // decoded
  integer,
  real,
  operation,  // one of + - * / // % ** ~ == != < <= > >= = . , : ; | ( ) [ ] { }
  end,
};

struct token {
  token_type type = token_type::end;
  std::string text;
  position at;

  bool is(std::string_view operation) const {
    return type == token_type::operation && text == operation;
  }
  bool is_name(std::string_view name) const { return type == token_type::name && text == name; }
};

// The last token is `end`. Errors name line and column.
result<std::vector<token>> tokenize(std::string_view source);

}  // namespace troupe::model::jinja
