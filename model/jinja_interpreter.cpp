#include "model/jinja_interpreter.hpp"

#include <algorithm>

namespace troupe::model::jinja {
namespace {

// A method that was named but not called yet.
class bound_method final : public object {
 public:
  bound_method(const builtin& method, value self) : method_(method), self_(std::move(self)) {}
  std::string_view type_name() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  result<value> call(interpreter& in, const arguments& args) override {
    return in.apply(method_, self_, args);
  }

 private:
  const builtin& method_;
  value self_;
};

// Nodes that a level of the template's own nesting takes at most: statement, output, call, operator.
constexpr std::uint32_t nodes_per_level = 4;

}  // namespace

void scope::set(symbol id, value to) {
  for (auto& [name, held] : variables) {
    if (name != id) continue;
    held = std::move(to);
    return;
  }
  variables.emplace_back(id, std::move(to));
}

const value* scope::find_here(symbol id) const {
  for (const auto& [name, held] : variables)
    if (name == id) return &held;
  return nullptr;
}

interpreter::interpreter(const program& what, const template_limits& limits)
    : program_(what), limits_(limits), steps_left_(limits.steps) {
  scope_ = &scopes_.emplace_back();
  for (const builtin& function : functions())
    define(function.name, heap_.make_object<bound_method>(function, value()));
}

void interpreter::define(std::string_view name, value to) {
  const symbol id = program_.find(name);
  if (id != program::npos) scope_->set(id, std::move(to));
}

result<text> interpreter::run() {
  text out;
  out_ = &out;
  TROUPE_CHECK(run_block(program_.body));
  return out;
}

result<void> interpreter::nesting::check() const {
  if (in_.depth_ > nodes_per_level * in_.limits_.depth)
    return fail(ec::invalid_argument, "template: nested more deeply than the limit allows");
  return {};
}

result<void> interpreter::spend(std::uint64_t steps) {
  if (steps > steps_left_) {
    steps_left_ = 0;
    return fail(ec::invalid_argument,
                "template: rendering takes more than " + std::to_string(limits_.steps) + " steps");
  }
  steps_left_ -= steps;
  return {};
}

result<value> interpreter::make_string(text made) {
  TROUPE_CHECK(spend_bytes(made.size()));
  return value(std::move(made));
}

result<value> interpreter::make_list(std::vector<value> items, bool tuple) {
  TROUPE_CHECK(spend(items.size()));
  list* made = heap_.make_list();
  made->items = std::move(items);
  made->tuple = tuple;
  return value(made);
}

tl::unexpected<error> interpreter::wrong(position at, std::string what) const {
  return fail(ec::invalid_argument, "template, " + jinja::to_string(at) + ": " + std::move(what));
}

value interpreter::look_up(symbol id) const {
  for (const scope* in = scope_; in != nullptr; in = in->parent)
    if (const value* held = in->find_here(id)) return *held;
  return {};
}

std::string interpreter::describe(const expression& e) const {
  if (e.kind == expression_kind::name) return "'" + program_.name(e.id) + "'";
  if (e.kind == expression_kind::attribute) return "'" + e.text + "'";
  if (e.kind == expression_kind::item && e.items[1]->constant.string() != nullptr)
    return "'" + e.items[1]->constant.string()->bytes() + "'";
  return "the value";
}

result<value> interpreter::evaluate(const expression& e) {
  if (e.kind == expression_kind::literal) return e.constant;
  if (e.kind == expression_kind::name) {
    TROUPE_CHECK(spend(1));
    return look_up(e.id);
  }
  const nesting level(*this);
  TROUPE_CHECK(level.check());
  TROUPE_CHECK(spend(1));
  return located(e.at, evaluate_node(e));
}

result<value> interpreter::evaluate_node(const expression& e) {
  switch (e.kind) {
    case expression_kind::literal:
      return e.constant;
    case expression_kind::name:
      return look_up(e.id);
    case expression_kind::list:
      return evaluate_items(e, false);
    case expression_kind::tuple:
      return evaluate_items(e, true);
    case expression_kind::dict:
      return evaluate_dict(e);
    case expression_kind::attribute:
    case expression_kind::item:
      return evaluate_attribute(e);
    case expression_kind::slice:
      return evaluate_slice(e);
    case expression_kind::call:
      return evaluate_call(e);
    case expression_kind::filter:
    case expression_kind::test: {
      TROUPE_TRY(const value self, e.items[0] != nullptr ? evaluate(*e.items[0]) : *piped_);
      TROUPE_TRY(const arguments args, evaluate_arguments(e.arguments));
      return apply(*e.function, self, args);
    }
    case expression_kind::arithmetic:
      return evaluate_arithmetic(e);
    case expression_kind::compare:
      return evaluate_compare(e);
    case expression_kind::concat:
      return evaluate_concat(e);
    case expression_kind::conditional: {
      TROUPE_TRY(const value condition, evaluate(*e.items[1]));
      if (condition.truthy()) return evaluate(*e.items[0]);
      return e.items[2] != nullptr ? evaluate(*e.items[2]) : value();
    }
    case expression_kind::logical_and:
    case expression_kind::logical_or: {
      // The first operand that decides, as it is.
      for (const expression* operand : e.items) {
        TROUPE_TRY(value one, evaluate(*operand));
        if (operand == e.items.back() || one.truthy() == (e.kind == expression_kind::logical_or))
          return one;
      }
      return value();
    }
    case expression_kind::logical_not: {
      TROUPE_TRY(const value of, evaluate(*e.items[0]));
      return value(!of.truthy());
    }
    case expression_kind::negative: {
      TROUPE_TRY(const value of, evaluate(*e.items[0]));
      return calculate(*this, operation::subtract, value(std::int64_t{0}), of);
    }
    case expression_kind::positive:
      return evaluate(*e.items[0]);
  }
  return value();
}

result<value> interpreter::evaluate_items(const expression& e, bool tuple) {
  std::vector<value> items;
  items.reserve(e.items.size());
  for (const expression* item : e.items) {
    TROUPE_TRY(value one, evaluate(*item));
    items.push_back(std::move(one));
  }
  return make_list(std::move(items), tuple);
}

result<value> interpreter::evaluate_dict(const expression& e) {
  dict* made = heap_.make_dict();
  for (std::size_t i = 0; i + 1 < e.items.size(); i += 2) {
    TROUPE_TRY(value key, evaluate(*e.items[i]));
    TROUPE_TRY(value held, evaluate(*e.items[i + 1]));
    if (key.as_list() || key.as_dict())
      return fail(ec::invalid_argument, "unhashable type: '" + std::string(key.type_name()) + "'");
    TROUPE_TRY(const value* old, find(*made, key));
    if (old != nullptr) {
      const_cast<value&>(*old) = std::move(held);
    } else {
      made->items.emplace_back(std::move(key), std::move(held));
    }
  }
  return value(made);
}

result<value> interpreter::evaluate_attribute(const expression& e) {
  TROUPE_TRY(const value of, evaluate(*e.items[0]));
  if (of.is_undefined()) return wrong(e.at, describe(*e.items[0]) + " is undefined");
  if (e.kind == expression_kind::attribute) return attribute(of, e.text);
  TROUPE_TRY(const value key, evaluate(*e.items[1]));
  return item(of, key);
}

// Python's getattr, then the item.
result<value> interpreter::attribute(const value& of, std::string_view name) {
  if (object* thing = of.as_object()) return thing->attribute(*this, name);
  if (const builtin* method = find_method(of, name)) {
    TROUPE_CHECK(spend(1));
    return value(heap_.make_object<bound_method>(*method, of));
  }
  const dict* held = of.as_dict();
  if (held == nullptr) return value();
  TROUPE_CHECK(spend(held->items.size() / 16));
  const value* found = held->find(name);
  return found != nullptr ? *found : value();
}

result<const value*> interpreter::find(const dict& in, const value& key) {
  TROUPE_CHECK(spend(in.items.size() / 16));
  if (const text* name = key.string()) return in.find(name->bytes());
  for (const auto& [held, what] : in.items) {
    TROUPE_TRY(const bool same, equal(held, key));
    if (same) return &what;
  }
  return nullptr;
}

result<value> interpreter::item(const value& of, const value& key) {
  if (const dict* held = of.as_dict()) {
    TROUPE_TRY(const value* found, find(*held, key));
    if (found != nullptr) return *found;
  } else if (const auto index = key.as_integer()) {
    if (const list* items = of.as_list()) {
      const auto size = static_cast<std::int64_t>(items->items.size());
      const std::int64_t at = *index < 0 ? *index + size : *index;
      return at >= 0 && at < size ? items->items[static_cast<std::size_t>(at)] : value();
    }
    if (of.string()) {
      TROUPE_TRY(value one,
                 slice(*this, of, key, *index == -1 ? value() : value(*index + 1), value()));
      return one.string()->empty() ? value() : one;
    }
  }
  const text* name = key.string();
  return name != nullptr ? attribute(of, name->bytes()) : value();
}

result<value> interpreter::evaluate_slice(const expression& e) {
  TROUPE_TRY(const value of, evaluate(*e.items[0]));
  if (of.is_undefined()) return wrong(e.at, describe(*e.items[0]) + " is undefined");
  std::vector<value> parts(3);
  for (std::size_t i = 0; i < 3; ++i) {
    if (e.items[i + 1] == nullptr) continue;
    TROUPE_TRY(parts[i], evaluate(*e.items[i + 1]));
  }
  return slice(*this, of, parts[0], parts[1], parts[2]);
}

result<arguments> interpreter::evaluate_arguments(const std::vector<argument>& from) {
  arguments made;
  for (const argument& one : from) {
    TROUPE_TRY(value of, evaluate(*one.of));
    if (one.name.empty()) {
      made.positional.push_back(std::move(of));
    } else {
      made.keyword.emplace_back(one.name, std::move(of));
    }
  }
  return made;
}

result<value> interpreter::evaluate_call(const expression& e) {
  const expression& callee = *e.items[0];
  value of;
  if (callee.kind == expression_kind::attribute) {
    // A method call without the detour over an object.
    TROUPE_TRY(const value self, evaluate(*callee.items[0]));
    if (self.is_undefined()) return wrong(callee.at, describe(*callee.items[0]) + " is undefined");
    if (const builtin* method = find_method(self, callee.text)) {
      TROUPE_TRY(const arguments args, evaluate_arguments(e.arguments));
      return apply(*method, self, args);
    }
    TROUPE_TRY(of, attribute(self, callee.text));
    if (of.is_undefined())
      return wrong(callee.at, "'" + std::string(self.type_name()) + "' object has no attribute '" +
                                  callee.text + "'");
  } else {
    TROUPE_TRY(of, evaluate(callee));
    if (of.is_undefined()) return wrong(callee.at, describe(callee) + " is undefined");
  }
  object* thing = of.as_object();
  if (thing == nullptr)
    return wrong(e.at, "'" + std::string(of.type_name()) + "' object is not callable");
  TROUPE_TRY(const arguments args, evaluate_arguments(e.arguments));
  return thing->call(*this, args);
}

result<value> interpreter::evaluate_filters(const expression& chain, const value& piped) {
  const value* const outer = std::exchange(piped_, &piped);
  auto made = evaluate(chain);
  piped_ = outer;
  return made;
}

result<value> interpreter::apply(const builtin& function, const value& self,
                                 const arguments& args) {
  TROUPE_CHECK(spend(1));
  if (!function.variadic) {
    if (args.positional.size() > function.parameters.size())
      return fail(ec::invalid_argument, std::string(function.name) + " takes at most " +
                                            std::to_string(function.parameters.size()) +
                                            " arguments");
    for (const auto& [name, unused] : args.keyword)
      if (std::ranges::find(function.parameters, name) == function.parameters.end())
        return fail(ec::invalid_argument,
                    std::string(function.name) + " has no argument '" + std::string(name) + "'");
  }
  return function.run(*this, self, args);
}

result<value> interpreter::evaluate_arithmetic(const expression& e) {
  TROUPE_TRY(value sum, evaluate(*e.items[0]));
  for (std::size_t i = 0; i < e.operators.size(); ++i) {
    TROUPE_TRY(const value next, evaluate(*e.items[i + 1]));
    TROUPE_TRY(sum, calculate(*this, e.operators[i], sum, next));
  }
  return sum;
}

result<value> interpreter::evaluate_compare(const expression& e) {
  TROUPE_TRY(value left, evaluate(*e.items[0]));
  for (std::size_t i = 0; i < e.operators.size(); ++i) {
    TROUPE_TRY(value right, evaluate(*e.items[i + 1]));
    TROUPE_TRY(const bool holds, compare(e.operators[i], left, right));
    if (!holds) return value(false);
    left = std::move(right);
  }
  return value(true);
}

result<bool> interpreter::compare(operation how, const value& a, const value& b) {
  switch (how) {
    case operation::equal:
      return equal(a, b);
    case operation::not_equal: {
      TROUPE_TRY(const bool same, equal(a, b));
      return !same;
    }
    case operation::in:
      return contains(b, a);
    case operation::not_in: {
      TROUPE_TRY(const bool held, contains(b, a));
      return !held;
    }
    default:
      break;
  }
  TROUPE_TRY(const int sign, order(a, b));
  return how == operation::less         ? sign < 0
         : how == operation::less_equal ? sign <= 0
         : how == operation::greater    ? sign > 0
                                        : sign >= 0;
}

result<value> interpreter::evaluate_concat(const expression& e) {
  text joined;
  for (const expression* item : e.items) {
    TROUPE_TRY(const value one, evaluate(*item));
    TROUPE_TRY(const text part, to_text(one));
    TROUPE_CHECK(spend_bytes(part.size()));
    joined.append(part);
  }
  return make_string(std::move(joined));
}

}  // namespace troupe::model::jinja
