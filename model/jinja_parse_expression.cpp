#include <algorithm>
#include <array>
#include <charconv>

#include "model/jinja_builtins.hpp"
#include "model/jinja_parser.hpp"

namespace troupe::model::jinja {

expression* parser::make(expression_kind kind, position at, std::vector<const expression*> items) {
  expression* made = program_.make_expression(kind, at);
  made->items = std::move(items);
  return made;
}

parser::parsed parser::parse_tuple() {
  const position at = peek().at;
  TROUPE_TRY(const auto* first, parse_expression());
  if (!peek().is(",")) return first;
  std::vector<const expression*> items{first};
  while (take_if(",")) {
    const token_type next = peek().type;
    if (next == token_type::output_end || next == token_type::block_end || peek().is(")")) break;
    TROUPE_TRY(const auto* item, parse_expression());
    items.push_back(item);
  }
  return make(expression_kind::tuple, at, std::move(items));
}

parser::parsed parser::parse_expression() {
  if (depth_left_ == 0) return wrong(peek().at, "the expression is nested too deeply");
  --depth_left_;
  auto made = parse_conditional();
  ++depth_left_;
  return made;
}

parser::parsed parser::parse_conditional() {
  TROUPE_TRY(const auto* made, parse_or());
  while (peek().is_name("if")) {
    const position at = take().at;
    TROUPE_TRY(const auto* condition, parse_or());
    const expression* otherwise = nullptr;
    if (take_if_name("else")) {
      TROUPE_TRY(otherwise, parse_expression());
    }
    made = make(expression_kind::conditional, at, {made, condition, otherwise});
  }
  return made;
}

parser::parsed parser::parse_or() {
  TROUPE_TRY(const auto* first, parse_and());
  if (!peek().is_name("or")) return first;
  expression* made = make(expression_kind::logical_or, peek().at, {first});
  while (take_if_name("or")) {
    TROUPE_TRY(const auto* next, parse_and());
    made->items.push_back(next);
  }
  return made;
}

parser::parsed parser::parse_and() {
  TROUPE_TRY(const auto* first, parse_not());
  if (!peek().is_name("and")) return first;
  expression* made = make(expression_kind::logical_and, peek().at, {first});
  while (take_if_name("and")) {
    TROUPE_TRY(const auto* next, parse_not());
    made->items.push_back(next);
  }
  return made;
}

parser::parsed parser::parse_not() {
  if (!peek().is_name("not")) return parse_compare();
  const position at = take().at;
  bool negated = true;
  while (take_if_name("not")) negated = !negated;
  TROUPE_TRY(const auto* of, parse_compare());
  const expression* made = make(expression_kind::logical_not, at, {of});
  return negated ? made : make(expression_kind::logical_not, at, {made});
}

parser::parsed parser::parse_chain(
    expression_kind kind, parsed (parser::*operand)(),
    std::initializer_list<std::pair<std::string_view, operation>> operators) {
  TROUPE_TRY(const auto* first, (this->*operand)());
  expression* made = nullptr;
  for (;;) {
    const auto found =
        std::ranges::find_if(operators, [&](const auto& o) { return peek().is(o.first); });
    if (found == operators.end()) break;
    const position at = take().at;
    if (made == nullptr) made = make(kind, at, {first});
    TROUPE_TRY(const auto* next, (this->*operand)());
    made->operators.push_back(found->second);
    made->items.push_back(next);
  }
  return made == nullptr ? first : made;
}

parser::parsed parser::parse_compare() {
  static constexpr std::array<std::pair<std::string_view, operation>, 6> operators = {
      {{"==", operation::equal},
       {"!=", operation::not_equal},
       {"<", operation::less},
       {"<=", operation::less_equal},
       {">", operation::greater},
       {">=", operation::greater_equal}}};
  TROUPE_TRY(const auto* first, parse_sum());
  expression* made = nullptr;
  for (;;) {
    const position at = peek().at;
    const auto found =
        std::ranges::find_if(operators, [&](const auto& o) { return peek().is(o.first); });
    operation next = operation::in;
    if (found != operators.end()) {
      next = found->second;
      take();
    } else if (peek().is_name("not") && peek_second().is_name("in")) {
      next = operation::not_in;
      take();
      take();
    } else if (!take_if_name("in")) {
      break;
    }
    if (made == nullptr) made = make(expression_kind::compare, at, {first});
    TROUPE_TRY(const auto* right, parse_sum());
    made->operators.push_back(next);
    made->items.push_back(right);
  }
  return made == nullptr ? first : made;
}

parser::parsed parser::parse_sum() {
  return parse_chain(expression_kind::arithmetic, &parser::parse_concat,
                     {{"+", operation::add}, {"-", operation::subtract}});
}

parser::parsed parser::parse_concat() {
  TROUPE_TRY(const auto* first, parse_product());
  if (!peek().is("~")) return first;
  expression* made = make(expression_kind::concat, peek().at, {first});
  while (take_if("~")) {
    TROUPE_TRY(const auto* next, parse_product());
    made->items.push_back(next);
  }
  return made;
}

parser::parsed parser::parse_product() {
  return parse_chain(expression_kind::arithmetic, &parser::parse_power,
                     {{"*", operation::multiply},
                      {"/", operation::divide},
                      {"//", operation::floor_divide},
                      {"%", operation::modulo}});
}

// Left to right, as jinja2 does and Python does not.
parser::parsed parser::parse_power() {
  TROUPE_TRY(const auto* first, parse_unary(true));
  if (!peek().is("**")) return first;
  expression* made = make(expression_kind::arithmetic, peek().at, {first});
  while (take_if("**")) {
    TROUPE_TRY(const auto* next, parse_unary(true));
    made->operators.push_back(operation::power);
    made->items.push_back(next);
  }
  return made;
}

parser::parsed parser::parse_unary(bool with_filters) {
  const position at = peek().at;
  const expression* made = nullptr;
  if (peek().is("-") || peek().is("+")) {
    const auto kind = take().text == "-" ? expression_kind::negative : expression_kind::positive;
    if (depth_left_ == 0) return wrong(at, "the expression is nested too deeply");
    --depth_left_;
    TROUPE_TRY(const auto* of, parse_unary(false));
    ++depth_left_;
    made = make(kind, at, {of});
  } else {
    TROUPE_TRY(made, parse_primary());
  }
  TROUPE_TRY(made, parse_postfix(made));
  return with_filters ? parse_filters(made) : parsed(made);
}

parser::parsed parser::parse_primary() {
  const token& next = peek();
  switch (next.type) {
    case token_type::string: {
      expression* made = make(expression_kind::literal, next.at);
      std::string joined;
      while (peek().type == token_type::string) joined += take().text;
      made->constant = value::literal(joined);
      return made;
    }
    case token_type::integer:
    case token_type::real:
      return parse_literal_number();
    case token_type::name:
      break;
    case token_type::operation:
      if (next.is("(")) return parse_parenthesis();
      if (next.is("[")) return parse_list();
      if (next.is("{")) return parse_dict();
      return unexpected();
    default:
      return unexpected();
  }
  const std::string& name = take().text;
  const position at = next.at;
  const bool truth = name == "true" || name == "True";
  if (truth || name == "false" || name == "False" || name == "none" || name == "None") {
    expression* made = make(expression_kind::literal, at);
    made->constant = name == "none" || name == "None" ? value(none{}) : value(truth);
    return made;
  }
  expression* made = make(expression_kind::name, at);
  made->id = program_.intern(name);
  return made;
}

parser::parsed parser::parse_literal_number() {
  const token& got = take();
  expression* made = make(expression_kind::literal, got.at);
  const char* end = got.text.data() + got.text.size();
  if (got.type == token_type::integer) {
    std::int64_t number = 0;
    if (std::from_chars(got.text.data(), end, number).ec != std::errc())
      return wrong(got.at, "the number is too large");
    made->constant = number;
  } else {
    double number = 0;
    if (std::from_chars(got.text.data(), end, number).ec != std::errc())
      return wrong(got.at, "the number is out of range");
    made->constant = number;
  }
  return made;
}

parser::parsed parser::parse_parenthesis() {
  const position at = take().at;
  if (take_if(")")) return make(expression_kind::tuple, at);
  TROUPE_TRY(const auto* made, parse_tuple());
  TROUPE_CHECK(expect(")"));
  return made;
}

parser::parsed parser::parse_list() {
  expression* made = make(expression_kind::list, take().at);
  while (!peek().is("]")) {
    if (!made->items.empty()) TROUPE_CHECK(expect(","));
    if (peek().is("]")) break;
    TROUPE_TRY(const auto* item, parse_expression());
    made->items.push_back(item);
  }
  TROUPE_CHECK(expect("]"));
  return made;
}

parser::parsed parser::parse_dict() {
  expression* made = make(expression_kind::dict, take().at);
  while (!peek().is("}")) {
    if (!made->items.empty()) TROUPE_CHECK(expect(","));
    if (peek().is("}")) break;
    TROUPE_TRY(const auto* key, parse_expression());
    TROUPE_CHECK(expect(":"));
    TROUPE_TRY(const auto* item, parse_expression());
    made->items.insert(made->items.end(), {key, item});
  }
  TROUPE_CHECK(expect("}"));
  return made;
}

parser::parsed parser::parse_postfix(const expression* of) {
  for (;;) {
    if (peek().is("[")) {
      TROUPE_TRY(of, parse_subscript(of));
    } else if (peek().is("(")) {
      TROUPE_TRY(of, parse_call(of));
    } else if (peek().is(".")) {
      const position at = take().at;
      if (peek().type == token_type::integer) {
        TROUPE_TRY(const auto* index, parse_literal_number());
        of = make(expression_kind::item, at, {of, index});
      } else {
        expression* made = make(expression_kind::attribute, at, {of});
        TROUPE_TRY(made->text, expect_name());
        of = made;
      }
    } else {
      return of;
    }
  }
}

parser::parsed parser::parse_subscript(const expression* of) {
  const position at = take().at;
  std::array<const expression*, 3> parts{};
  std::size_t colons = 0;
  for (;;) {
    if (!peek().is(":") && !peek().is("]")) {
      TROUPE_TRY(parts[colons], parse_expression());
    }
    if (colons == 2 || !take_if(":")) break;
    ++colons;
  }
  TROUPE_CHECK(expect("]"));
  if (colons > 0) return make(expression_kind::slice, at, {of, parts[0], parts[1], parts[2]});
  if (parts[0] == nullptr) return wrong(at, "an empty subscript");
  return make(expression_kind::item, at, {of, parts[0]});
}

result<std::vector<argument>> parser::parse_arguments() {
  std::vector<argument> made;
  TROUPE_CHECK(expect("("));
  while (!peek().is(")")) {
    if (!made.empty()) TROUPE_CHECK(expect(","));
    if (peek().is(")")) break;
    if (peek().is("*") || peek().is("**"))
      return wrong(peek().at, "unpacking of arguments is not supported");
    argument next;
    const position at = peek().at;
    if (peek().type == token_type::name && peek_second().is("=")) {
      next.name = take().text;
      take();
    } else if (!made.empty() && !made.back().name.empty()) {
      return wrong(at, "a positional argument follows a named one");
    }
    TROUPE_TRY(next.of, parse_expression());
    made.push_back(std::move(next));
  }
  TROUPE_CHECK(expect(")"));
  return made;
}

parser::parsed parser::parse_call(const expression* callee) {
  expression* made = make(expression_kind::call, peek().at, {callee});
  TROUPE_TRY(made->arguments, parse_arguments());
  return made;
}

parser::parsed parser::parse_filters(const expression* of) {
  for (;;) {
    if (take_if("|")) {
      TROUPE_TRY(of, parse_one_filter(of));
    } else if (of != nullptr && peek().is_name("is")) {
      TROUPE_TRY(of, parse_test(of));
    } else if (of != nullptr && peek().is("(")) {
      TROUPE_TRY(of, parse_call(of));
    } else {
      return of;
    }
  }
}

parser::parsed parser::parse_one_filter(const expression* of) {
  expression* made = make(expression_kind::filter, peek().at, {of});
  TROUPE_TRY(made->text, expect_name());
  made->function = find_filter(made->text);
  if (made->function == nullptr)
    return wrong(made->at, "the filter '" + made->text + "' is not supported");
  if (peek().is("(")) {
    TROUPE_TRY(made->arguments, parse_arguments());
  }
  return made;
}

parser::parsed parser::parse_test(const expression* of) {
  const position at = take().at;
  const bool negated = take_if_name("not");
  expression* made = make(expression_kind::test, at, {of});
  TROUPE_TRY(made->text, expect_name());
  made->function = find_test(made->text);
  if (made->function == nullptr) return wrong(at, "the test '" + made->text + "' is not supported");
  const token& next = peek();
  const bool operand = next.type == token_type::string || next.type == token_type::integer ||
                       next.type == token_type::real || next.is("[") || next.is("{") ||
                       (next.type == token_type::name && next.text != "else" && next.text != "or" &&
                        next.text != "and" && next.text != "if" && next.text != "is" &&
                        next.text != "in" && next.text != "not" && next.text != "recursive");
  if (next.is("(")) {
    TROUPE_TRY(made->arguments, parse_arguments());
  } else if (operand) {
    TROUPE_TRY(const auto* one, parse_primary());
    TROUPE_TRY(one, parse_postfix(one));
    made->arguments.push_back({"", one});
  }
  if (!negated) return made;
  return make(expression_kind::logical_not, at, {made});
}

}  // namespace troupe::model::jinja
