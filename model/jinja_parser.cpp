#include "model/jinja_parser.hpp"

#include <algorithm>

#include "model/jinja_builtins.hpp"

namespace troupe::model::jinja {

symbol program::intern(std::string_view name) {
  const auto it = symbols_.find(name);
  if (it != symbols_.end()) return it->second;
  const auto id = static_cast<symbol>(names_.size());
  symbols_.emplace(names_.emplace_back(name), id);
  return id;
}

symbol program::find(std::string_view name) const {
  const auto it = symbols_.find(name);
  return it == symbols_.end() ? npos : it->second;
}

result<std::unique_ptr<const program>> parse(std::string_view source, std::uint32_t depth) {
  TROUPE_TRY(auto tokens, tokenize(source));
  auto made = std::make_unique<program>();
  TROUPE_TRY(made->body, parser(std::move(tokens), *made, depth).parse_template());
  return std::unique_ptr<const program>(std::move(made));
}

bool parser::take_if(std::string_view operation) {
  if (!peek().is(operation)) return false;
  take();
  return true;
}

bool parser::take_if_name(std::string_view name) {
  if (!peek().is_name(name)) return false;
  take();
  return true;
}

result<void> parser::expect(std::string_view operation) {
  if (!take_if(operation)) {
    const token& got = peek();
    return wrong(got.at, "expected '" + std::string(operation) + "'" +
                             (got.text.empty() ? std::string() : ", not '" + got.text + "'"));
  }
  return {};
}

result<std::string> parser::expect_name() {
  if (peek().type != token_type::name) return unexpected();
  return take().text;
}

result<void> parser::end_block() {
  if (peek().type != token_type::block_end) return unexpected();
  take();
  return {};
}

tl::unexpected<error> parser::wrong(position at, std::string what) const {
  return fail(ec::invalid_argument, "template, " + to_string(at) + ": " + std::move(what));
}

tl::unexpected<error> parser::unexpected() const {
  const token& got = peek();
  switch (got.type) {
    case token_type::end:
      return wrong(got.at, "the template ends too early");
    case token_type::block_end:
      return wrong(got.at, "'%}' is not expected here");
    case token_type::output_end:
      return wrong(got.at, "'}}' is not expected here");
    default:
      return wrong(got.at, "'" + got.text + "' is not expected here");
  }
}

result<block> parser::parse_template() {
  TROUPE_TRY(auto body, parse_block({}));
  if (peek().type != token_type::end)
    return wrong(peek().at, "'" + peek().text + "' ends no open block");
  return body;
}

// Up to {% with one of `ends`, whose name is then the next token.
result<block> parser::parse_block(std::initializer_list<std::string_view> ends) {
  if (depth_left_ == 0) return wrong(peek().at, "blocks are nested too deeply");
  --depth_left_;
  block body;
  while (peek().type != token_type::end) {
    if (peek().type == token_type::text) {
      const token& got = take();
      statement* made = program_.make_statement(statement_kind::text, got.at);
      made->constant = value::literal(got.text);
      body.push_back(made);
    } else if (peek().type == token_type::output_begin) {
      const position at = take().at;
      statement* made = program_.make_statement(statement_kind::output, at);
      TROUPE_TRY(made->of, parse_tuple());
      if (peek().type != token_type::output_end) return unexpected();
      take();
      body.push_back(made);
    } else {
      take();  // {%
      if (peek().type != token_type::name) return unexpected();
      if (std::ranges::find(ends, peek().text) != ends.end() || peek().text.starts_with("end"))
        break;
      if (peek().text == "else" || peek().text == "elif") break;
      TROUPE_TRY(const auto* made, parse_statement());
      body.push_back(made);
    }
  }
  ++depth_left_;
  return body;
}

// A body whose end tag is named `end`; takes that too.
result<block> parser::parse_body(std::string_view end) {
  const position start = peek().at;
  TROUPE_CHECK(end_block());
  TROUPE_TRY(auto body, parse_block({end}));
  if (peek().type == token_type::end)
    return wrong(start, "the block that begins here has no '" + std::string(end) + "'");
  if (!take_if_name(end)) return wrong(peek().at, "'" + peek().text + "' does not end this block");
  TROUPE_CHECK(end_block());
  return body;
}

// A body whose output is a value: break and continue do not lead out of it.
result<block> parser::parse_captured(std::string_view end) {
  const std::uint32_t outer_loops = std::exchange(loops_, 0);
  TROUPE_TRY(auto body, parse_body(end));
  loops_ = outer_loops;
  return body;
}

result<const statement*> parser::parse_statement() {
  const position at = peek().at;
  const std::string name = take().text;
  if (name == "set") return parse_set(at);
  if (name == "if") return parse_if(at);
  if (name == "for") return parse_for(at);
  if (name == "macro") return parse_macro(at);
  if (name == "call") return parse_call_block(at);
  if (name == "filter") return parse_filter_block(at);
  if (name == "with") return parse_with(at);
  if (name == "generation") return parse_body_block(at, "endgeneration");
  if (name == "do") {
    statement* made = program_.make_statement(statement_kind::evaluate, at);
    TROUPE_TRY(made->of, parse_tuple());
    TROUPE_CHECK(end_block());
    return made;
  }
  if (name == "break" || name == "continue") {
    if (loops_ == 0) return wrong(at, "'" + name + "' outside of a loop");
    TROUPE_CHECK(end_block());
    return program_.make_statement(
        name == "break" ? statement_kind::break_ : statement_kind::continue_, at);
  }
  return wrong(at, "the tag '" + name + "' is not supported");
}

result<std::vector<target>> parser::parse_targets() {
  std::vector<target> targets;
  const bool parenthesis = take_if("(");
  do {
    if (!targets.empty() && peek().type != token_type::name) break;  // a trailing comma
    const position at = peek().at;
    target next;
    TROUPE_TRY(const auto name, expect_name());
    if (name == "true" || name == "false" || name == "none" || name == "True" || name == "False" ||
        name == "None")
      return wrong(at, "cannot assign to '" + name + "'");
    next.id = program_.intern(name);
    if (take_if(".")) {
      TROUPE_TRY(next.attribute, expect_name());
    }
    targets.push_back(std::move(next));
  } while (take_if(","));
  if (parenthesis) TROUPE_CHECK(expect(")"));
  return targets;
}

result<const statement*> parser::parse_set(position at) {
  statement* made = program_.make_statement(statement_kind::set, at);
  TROUPE_TRY(made->targets, parse_targets());
  if (take_if("=")) {
    TROUPE_TRY(made->of, parse_tuple());
    TROUPE_CHECK(end_block());
    return made;
  }
  made->kind = statement_kind::set_block;
  if (made->targets.size() != 1) return wrong(at, "a set block has one target");
  if (peek().is("|")) {
    TROUPE_TRY(made->of, parse_filters(nullptr));
  }
  TROUPE_TRY(made->body, parse_captured("endset"));
  return made;
}

result<const statement*> parser::parse_if(position at) {
  statement* made = program_.make_statement(statement_kind::if_, at);
  bool has_else = false;
  for (bool open = true; open;) {
    branch next;
    if (!has_else) {
      TROUPE_TRY(next.condition, parse_tuple());
    }
    TROUPE_CHECK(end_block());
    TROUPE_TRY(next.body, parse_block({"elif", "else", "endif"}));
    made->branches.push_back(std::move(next));
    if (peek().type == token_type::end) return wrong(at, "the if that begins here has no 'endif'");
    const bool again = peek().is_name("elif") || peek().is_name("else");
    if (again && has_else) return unexpected();
    if (!again && !peek().is_name("endif"))
      return wrong(peek().at, "'" + peek().text + "' does not end an if");
    has_else = take().text == "else";
    open = again;
  }
  TROUPE_CHECK(end_block());
  return made;
}

result<const statement*> parser::parse_for(position at) {
  statement* made = program_.make_statement(statement_kind::for_, at);
  TROUPE_TRY(made->targets, parse_targets());
  for (const target& one : made->targets)
    if (!one.attribute.empty()) return wrong(at, "a loop variable is a name");
  if (!take_if_name("in")) return unexpected();
  // Not a conditional: its `if` would be the loop's.
  TROUPE_TRY(made->of, parse_or());
  if (peek().is(",")) return wrong(peek().at, "a loop over several expressions needs parentheses");
  if (take_if_name("if")) {
    TROUPE_TRY(made->condition, parse_expression());
  }
  if (peek().is_name("recursive")) return wrong(peek().at, "recursive loops are not supported");
  TROUPE_CHECK(end_block());
  ++loops_;
  TROUPE_TRY(made->body, parse_block({"else", "endfor"}));
  --loops_;
  if (take_if_name("else")) {
    TROUPE_CHECK(end_block());
    TROUPE_TRY(made->otherwise, parse_block({"endfor"}));
  }
  if (peek().type == token_type::end) return wrong(at, "the for that begins here has no 'endfor'");
  if (!take_if_name("endfor")) return wrong(peek().at, "'" + peek().text + "' does not end a for");
  TROUPE_CHECK(end_block());
  return made;
}

result<std::vector<parameter>> parser::parse_parameters() {
  std::vector<parameter> parameters;
  TROUPE_CHECK(expect("("));
  while (!peek().is(")")) {
    if (!parameters.empty()) TROUPE_CHECK(expect(","));
    if (peek().is(")")) break;
    parameter next;
    TROUPE_TRY(const auto name, expect_name());
    next.id = program_.intern(name);
    if (take_if("=")) {
      TROUPE_TRY(next.fallback, parse_expression());
    } else if (!parameters.empty() && parameters.back().fallback != nullptr) {
      return wrong(peek().at, "a parameter without a default follows one with a default");
    }
    parameters.push_back(next);
  }
  TROUPE_CHECK(expect(")"));
  return parameters;
}

result<const statement*> parser::parse_macro(position at) {
  statement* made = program_.make_statement(statement_kind::macro, at);
  TROUPE_TRY(const auto name, expect_name());
  made->id = program_.intern(name);
  TROUPE_TRY(made->parameters, parse_parameters());
  TROUPE_TRY(made->body, parse_captured("endmacro"));
  return made;
}

result<const statement*> parser::parse_call_block(position at) {
  statement* made = program_.make_statement(statement_kind::call, at);
  if (peek().is("(")) {
    TROUPE_TRY(made->parameters, parse_parameters());
  }
  TROUPE_TRY(made->of, parse_expression());
  if (made->of->kind != expression_kind::call) return wrong(at, "expected a call");
  TROUPE_TRY(made->body, parse_captured("endcall"));
  return made;
}

result<const statement*> parser::parse_filter_block(position at) {
  statement* made = program_.make_statement(statement_kind::filter, at);
  TROUPE_TRY(const auto* first, parse_one_filter(nullptr));
  TROUPE_TRY(made->of, parse_filters(first));
  TROUPE_TRY(made->body, parse_captured("endfilter"));
  return made;
}

result<const statement*> parser::parse_with(position at) {
  statement* made = program_.make_statement(statement_kind::scope, at);
  while (peek().type != token_type::block_end) {
    if (!made->targets.empty()) TROUPE_CHECK(expect(","));
    TROUPE_TRY(const auto name, expect_name());
    made->targets.push_back({program_.intern(name), ""});
    TROUPE_CHECK(expect("="));
    TROUPE_TRY(const auto* of, parse_expression());
    made->values.push_back(of);
  }
  TROUPE_TRY(made->body, parse_body("endwith"));
  return made;
}

result<const statement*> parser::parse_body_block(position at, std::string_view end) {
  statement* made = program_.make_statement(statement_kind::scope, at);
  TROUPE_TRY(made->body, parse_body(end));
  return made;
}

}  // namespace troupe::model::jinja
