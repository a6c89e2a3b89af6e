// Evaluates a parsed template once, within limits on steps, depth and output.
//
// A step is a node evaluated, an element produced or 64 bytes of text made, so that no template and no data makes
// the work grow faster than its budget. One render, one thread.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/chat_template.hpp"
#include "model/jinja_ast.hpp"
#include "model/jinja_builtins.hpp"
#include "model/jinja_value.hpp"

namespace troupe::model::jinja {

struct scope {
  scope* parent = nullptr;
  std::vector<std::pair<symbol, value>> variables;

  void set(symbol id, value to);
  const value* find_here(symbol id) const;
};

class interpreter {
 public:
  interpreter(const program& what, const template_limits& limits);
  // A variable of the outermost scope; ignored if the template does not use it.
  void define(std::string_view name, value to);
  result<text> run();

  // For builtins.
  heap& memory() { return heap_; }
  const template_limits& limits() const { return limits_; }
  result<void> spend(std::uint64_t steps);
  result<void> spend_bytes(std::uint64_t bytes) { return spend(bytes / 64); }
  result<value> make_string(text made);
  result<value> make_list(std::vector<value> items, bool tuple = false);
  result<value> attribute(const value& of, std::string_view name);
  result<value> item(const value& of, const value& key);
  result<value> apply(const builtin& function, const value& self, const arguments& args);
  result<std::vector<value>> iterate(const value& of);
  result<bool> equal(const value& a, const value& b);
  result<int> order(const value& a, const value& b);  // <0, 0, >0; error when they have no order
  result<bool> contains(const value& container, const value& element);
  result<const value*> find(const dict& in, const value& key);
  result<text> to_text(const value& of);  // Python's str
  result<void> append_repr(const value& of, text& out);
  void set_raised() { raised_ = true; }

  // For macros.
  result<value> call_macro(const statement& macro, std::string_view name, scope* closure,
                           const arguments& args);

  // Counts a level of nesting while it lives.
  class nesting {
   public:
    explicit nesting(interpreter& in) : in_(in) { ++in_.depth_; }
    ~nesting() { --in_.depth_; }
    nesting(const nesting&) = delete;
    nesting& operator=(const nesting&) = delete;
    result<void> check() const;

   private:
    interpreter& in_;
  };

 private:
  enum class flow : std::uint8_t { normal, leave_loop, next_turn };

  // Statements: jinja_statements.cpp.
  result<flow> run_block(const block& body);
  result<flow> run_statement(const statement& s);
  result<flow> run_for(const statement& s);
  result<flow> run_if(const statement& s);
  result<void> run_set(const statement& s);
  result<void> run_call(const statement& s);
  result<flow> run_scope(const statement& s);
  result<text> capture(const block& body, scope* in);
  result<void> assign(const std::vector<target>& targets, const value& to, position at);
  result<void> assign_one(const target& to, value what, position at);
  result<void> emit(const text& what);

  // Expressions: jinja_interpreter.cpp.
  result<value> evaluate(const expression& e);
  result<value> evaluate_node(const expression& e);
  result<value> evaluate_items(const expression& e, bool tuple);
  result<value> evaluate_dict(const expression& e);
  result<value> evaluate_attribute(const expression& e);
  result<value> evaluate_slice(const expression& e);
  result<value> evaluate_call(const expression& e);
  result<value> evaluate_filters(const expression& chain, const value& piped);
  result<value> evaluate_arithmetic(const expression& e);
  result<value> evaluate_compare(const expression& e);
  result<value> evaluate_concat(const expression& e);
  result<arguments> evaluate_arguments(const std::vector<argument>& from);
  result<bool> compare(operation how, const value& a, const value& b);
  value look_up(symbol id) const;
  std::string describe(const expression& e) const;
  tl::unexpected<error> wrong(position at, std::string what) const;
  // Adds the position to an error that has none.
  template <class T>
  result<T> located(position at, result<T> made) const {
    if (made || raised_ || made.error().detail.starts_with("template")) return made;
    return wrong(at, std::move(made.error().detail));
  }

  const program& program_;
  const template_limits limits_;
  heap heap_;
  std::deque<scope> scopes_;
  scope* scope_ = nullptr;
  text* out_ = nullptr;
  const value* piped_ = nullptr;  // what a chain of filters without an operand filters
  std::uint64_t steps_left_;
  std::uint32_t depth_ = 0;
  bool raised_ = false;  // the error is the template's own: its text stays as it is
};

// jinja_arithmetic.cpp.
result<value> calculate(interpreter& in, operation how, const value& a, const value& b);
// Python's slice of a string or list.
result<value> slice(interpreter& in, const value& of, const value& start, const value& stop,
                    const value& step);

}  // namespace troupe::model::jinja
