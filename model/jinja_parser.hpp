// Parses a template, after jinja2's grammar, what chat templates use of it. Unknown tags, filters and tests and
// unsupported syntax are errors that name line and column. Recursion is bounded by `depth`.
// One parse, one thread.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/jinja_ast.hpp"

namespace troupe::model::jinja {

result<std::unique_ptr<const program>> parse(std::string_view source, std::uint32_t depth);

class parser {
 public:
  parser(std::vector<token> tokens, program& into, std::uint32_t depth)
      : tokens_(std::move(tokens)), program_(into), depth_left_(depth) {}
  result<block> parse_template();

 private:
  using parsed = result<const expression*>;

  // The token stream.
  const token& peek() const { return tokens_[next_]; }
  const token& peek_second() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  const token& take() { return tokens_[peek().type == token_type::end ? next_ : next_++]; }
  bool take_if(std::string_view operation);
  bool take_if_name(std::string_view name);
  result<void> expect(std::string_view operation);
  result<std::string> expect_name();
  result<void> end_block();
  tl::unexpected<error> wrong(position at, std::string what) const;
  tl::unexpected<error> unexpected() const;

  // Statements: jinja_parser.cpp.
  result<block> parse_block(std::initializer_list<std::string_view> ends);
  result<const statement*> parse_statement();
  result<const statement*> parse_set(position at);
  result<const statement*> parse_if(position at);
  result<const statement*> parse_for(position at);
  result<const statement*> parse_macro(position at);
  result<const statement*> parse_call_block(position at);
  result<const statement*> parse_filter_block(position at);
  result<const statement*> parse_with(position at);
  result<const statement*> parse_body_block(position at, std::string_view end);
  result<std::vector<target>> parse_targets();
  result<std::vector<parameter>> parse_parameters();
  result<block> parse_body(std::string_view end);
  result<block> parse_captured(std::string_view end);

  // Expressions: jinja_parse_expression.cpp.
  parsed parse_tuple();  // an expression, or several with commas
  parsed parse_expression();
  parsed parse_conditional();
  parsed parse_or();
  parsed parse_and();
  parsed parse_not();
  parsed parse_compare();
  parsed parse_sum();
  parsed parse_concat();
  parsed parse_product();
  parsed parse_power();
  parsed parse_unary(bool with_filters);
  parsed parse_primary();
  parsed parse_postfix(const expression* of);
  parsed parse_filters(const expression* of);
  parsed parse_one_filter(const expression* of);
  parsed parse_test(const expression* of);
  parsed parse_subscript(const expression* of);
  parsed parse_call(const expression* callee);
  parsed parse_literal_number();
  parsed parse_parenthesis();
  parsed parse_list();
  parsed parse_dict();
  result<std::vector<argument>> parse_arguments();
  parsed parse_chain(expression_kind kind, parsed (parser::*operand)(),
                     std::initializer_list<std::pair<std::string_view, operation>> operators);
  expression* make(expression_kind kind, position at, std::vector<const expression*> items = {});

  std::vector<token> tokens_;
  std::size_t next_ = 0;
  program& program_;
  std::uint32_t depth_left_;
  std::uint32_t loops_ = 0;  // open for blocks that break and continue can leave
};

}  // namespace troupe::model::jinja
