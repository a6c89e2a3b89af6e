// The tree of a parsed template. Nodes live in the program and refer to each other by pointer, so that a tree of
// any shape is freed without recursion. Immutable after parsing, so any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/jinja_lexer.hpp"
#include "model/jinja_value.hpp"

namespace troupe::model::jinja {

using symbol = std::uint32_t;  // index into program::names

enum class expression_kind : std::uint8_t {
  literal,      // constant
  name,         // id
  list,         // items
  tuple,        // items
  dict,         // items: key, value, key, value, ...
  attribute,    // items[0].text
  item,         // items[0][items[1]]
  slice,        // items[0][items[1]:items[2]:items[3]], each but the first may be null
  call,         // items[0](arguments)
  filter,       // items[0]|builtin(arguments); items[0] is null in a filter block
  test,         // items[0] is builtin(arguments)
  negative,     // -items[0]
  positive,     // +items[0]
  logical_not,  // not items[0]
  logical_and,  // items
  logical_or,   // items
  arithmetic,   // items[0] operators[0] items[1] operators[1] ..., left to right
  compare,      // the same, chained as in Python
  concat,       // items
  conditional,  // items[0] if items[1] else items[2], which may be null
};

enum class operation : std::uint8_t {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in,
};

struct builtin;
struct expression;

struct argument {
  std::string name;  // empty: positional
  const expression* of = nullptr;
};

struct expression {
  expression_kind kind = expression_kind::literal;
  position at;
  value constant;
  symbol id = 0;
  std::string text;
  const builtin* function = nullptr;  // of filter and test
  std::vector<const expression*> items;
  std::vector<operation> operators;
  std::vector<argument> arguments;
};

enum class statement_kind : std::uint8_t {
  text,       // constant
  output,     // value
  set,        // targets = value
  set_block,  // targets[0] = body, through `value` if it is a filter
  if_,        // branches; the last may have no condition
  for_,       // targets in value if condition: body, else otherwise
  macro,      // id(parameters): body
  call,       // value is the call, parameters and body its caller()
  filter,     // body through value
  scope,      // with: values to targets, then body; also {% generation %}
  evaluate,   // {% do %}
  break_,
  continue_,
};

// A name, or an attribute of a namespace.
struct target {
  symbol id = 0;
  std::string attribute;
};

struct parameter {
  symbol id = 0;
  const expression* fallback = nullptr;  // null: undefined
};

struct statement;
using block = std::vector<const statement*>;

struct branch {
  const expression* condition = nullptr;  // null: else
  block body;
};

struct statement {
  statement_kind kind = statement_kind::text;
  position at;
  value constant;
  symbol id = 0;
  const expression* of = nullptr;
  const expression* condition = nullptr;
  std::vector<target> targets;
  std::vector<const expression*> values;  // of scope, one a target
  std::vector<parameter> parameters;
  std::vector<branch> branches;
  block body, otherwise;
};

class program {
 public:
  program() = default;
  program(const program&) = delete;
  program& operator=(const program&) = delete;

  expression* make_expression(expression_kind kind, position at) {
    expression& made = expressions_.emplace_back();
    made.kind = kind;
    made.at = at;
    return &made;
  }
  statement* make_statement(statement_kind kind, position at) {
    statement& made = statements_.emplace_back();
    made.kind = kind;
    made.at = at;
    return &made;
  }
  symbol intern(std::string_view name);
  // symbol of a name that the template uses, else npos.
  static constexpr symbol npos = 0xFFFFFFFF;
  symbol find(std::string_view name) const;
  const std::string& name(symbol id) const { return names_[id]; }

  block body;

 private:
  std::deque<expression> expressions_;
  std::deque<statement> statements_;
  std::deque<std::string> names_;
  std::unordered_map<std::string_view, symbol> symbols_;
};

}  // namespace troupe::model::jinja
