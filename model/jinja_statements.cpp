// The statements of the interpreter: output, assignment, loops, macros.
#include <algorithm>

#include "model/jinja_interpreter.hpp"

namespace troupe::model::jinja {
namespace {

class macro_object final : public object {
 public:
  macro_object(const statement& macro, std::string_view name, scope* closure)
      : macro_(macro), name_(name), closure_(closure) {}
  std::string_view type_name() const override { return "Macro"; }
  bool callable() const override { return true; }
  value attribute(interpreter&, std::string_view name) override {
    return name == "name" ? value::literal(name_) : value();
  }
  result<value> call(interpreter& in, const arguments& args) override {
    return in.call_macro(macro_, name_, closure_, args);
  }

 private:
  const statement& macro_;
  std::string_view name_;
  scope* closure_;
};

// The variable `loop`.
class loop_object final : public object {
 public:
  explicit loop_object(const std::vector<value>& items) : items_(items) {}
  std::string_view type_name() const override { return "LoopContext"; }
  void next() { ++index_; }

  value attribute(interpreter& in, std::string_view name) override;

 private:
  // loop.cycle and loop.changed.
  class method final : public object {
   public:
    method(loop_object& of, bool cycle) : loop_(of), cycle_(cycle) {}
    std::string_view type_name() const override { return "method"; }
    bool callable() const override { return true; }
    result<value> call(interpreter& in, const arguments& args) override {
      return cycle_ ? loop_.cycle(args) : loop_.changed(in, args);
    }

   private:
    loop_object& loop_;
    bool cycle_;
  };

  result<value> cycle(const arguments& args) const {
    if (args.positional.empty()) return fail(ec::invalid_argument, "no items for cycling given");
    return args.positional[index_ % args.positional.size()];
  }
  result<value> changed(interpreter& in, const arguments& args) {
    TROUPE_TRY(const value now, in.make_list(args.positional, true));
    TROUPE_TRY(const bool same, in.equal(last_, now));
    last_ = now;
    return value(!same);
  }

  const std::vector<value>& items_;
  std::size_t index_ = 0;
  value last_;
};

value loop_object::attribute(interpreter& in, std::string_view name) {
  const std::size_t size = items_.size();
  if (name == "index") return value::number(index_ + 1);
  if (name == "index0") return value::number(index_);
  if (name == "revindex") return value::number(size - index_);
  if (name == "revindex0") return value::number(size - index_ - 1);
  if (name == "first") return value(index_ == 0);
  if (name == "last") return value(index_ + 1 == size);
  if (name == "length") return value::number(size);
  if (name == "depth") return value(std::int64_t{1});
  if (name == "depth0") return value(std::int64_t{0});
  if (name == "previtem") return index_ > 0 ? items_[index_ - 1] : value();
  if (name == "nextitem") return index_ + 1 < size ? items_[index_ + 1] : value();
  if (name == "cycle") return value(in.memory().make_object<method>(*this, true));
  if (name == "changed") return value(in.memory().make_object<method>(*this, false));
  return {};
}

}  // namespace

result<void> interpreter::emit(const text& what) {
  TROUPE_CHECK(spend_bytes(what.size()));
  if (what.size() >
      limits_.output_bytes - std::min<std::uint64_t>(out_->size(), limits_.output_bytes))
    return fail(ec::invalid_argument,
                "template: the output exceeds " + std::to_string(limits_.output_bytes) + " bytes");
  out_->append(what);
  return {};
}

result<interpreter::flow> interpreter::run_block(const block& body) {
  const nesting level(*this);
  TROUPE_CHECK(level.check());
  for (const statement* s : body) {
    TROUPE_CHECK(spend(1));
    TROUPE_TRY(const flow then, located(s->at, run_statement(*s)));
    if (then != flow::normal) return then;
  }
  return flow::normal;
}

result<interpreter::flow> interpreter::run_statement(const statement& s) {
  switch (s.kind) {
    case statement_kind::text:
      TROUPE_CHECK(emit(*s.constant.string()));
      break;
    case statement_kind::output: {
      TROUPE_TRY(const value made, evaluate(*s.of));
      if (const text* string = made.string()) {
        TROUPE_CHECK(emit(*string));
      } else {
        TROUPE_TRY(const text printed, to_text(made));
        TROUPE_CHECK(emit(printed));
      }
      break;
    }
    case statement_kind::if_:
      return run_if(s);
    case statement_kind::for_:
      return run_for(s);
    case statement_kind::break_:
      return flow::leave_loop;
    case statement_kind::continue_:
      return flow::next_turn;
    case statement_kind::set:
    case statement_kind::set_block:
      TROUPE_CHECK(run_set(s));
      break;
    case statement_kind::macro:
      scope_->set(s.id, heap_.make_object<macro_object>(s, program_.name(s.id), scope_));
      break;
    case statement_kind::call:
      TROUPE_CHECK(run_call(s));
      break;
    case statement_kind::filter: {
      TROUPE_TRY(text made, capture(s.body, scope_));
      TROUPE_TRY(const value filtered, evaluate_filters(*s.of, value(std::move(made))));
      TROUPE_TRY(const text printed, to_text(filtered));
      TROUPE_CHECK(emit(printed));
      break;
    }
    case statement_kind::scope:
      return run_scope(s);
    case statement_kind::evaluate:
      TROUPE_CHECK(evaluate(*s.of));
      break;
  }
  return flow::normal;
}

result<interpreter::flow> interpreter::run_if(const statement& s) {
  for (const branch& one : s.branches) {
    if (one.condition != nullptr) {
      TROUPE_TRY(const value holds, evaluate(*one.condition));
      if (!holds.truthy()) continue;
    }
    return run_block(one.body);
  }
  return flow::normal;
}

result<interpreter::flow> interpreter::run_for(const statement& s) {
  TROUPE_TRY(const value of, evaluate(*s.of));
  TROUPE_TRY(auto items, iterate(of));
  scope* const outer = scope_;
  scope& inner = scopes_.emplace_back();
  inner.parent = outer;
  scope_ = &inner;
  const auto turn = [&]() -> result<flow> {
    if (s.condition != nullptr) {
      std::vector<value> kept;
      for (value& one : items) {
        TROUPE_CHECK(assign(s.targets, one, s.at));
        TROUPE_TRY(const value holds, evaluate(*s.condition));
        if (holds.truthy()) kept.push_back(std::move(one));
      }
      items = std::move(kept);
    }
    // The items outlive the loop: a macro may keep `loop`.
    TROUPE_TRY(const value kept, make_list(std::move(items)));
    const auto& turns = kept.as_list()->items;
    auto* loop = heap_.make_object<loop_object>(turns);
    const symbol loop_name = program_.find("loop");
    for (const value& one : turns) {
      inner.variables.clear();
      if (loop_name != program::npos) inner.set(loop_name, value(loop));
      TROUPE_CHECK(assign(s.targets, one, s.at));
      TROUPE_TRY(const flow then, run_block(s.body));
      if (then == flow::leave_loop) break;
      loop->next();
    }
    if (!turns.empty()) return flow::normal;
    scope_ = outer;
    return run_block(s.otherwise);
  };
  auto then = turn();
  scope_ = outer;
  return then;
}

result<void> interpreter::run_set(const statement& s) {
  if (s.kind == statement_kind::set) {
    TROUPE_TRY(const value made, evaluate(*s.of));
    return assign(s.targets, made, s.at);
  }
  TROUPE_TRY(text made, capture(s.body, nullptr));
  TROUPE_TRY(value filtered, make_string(std::move(made)));
  if (s.of != nullptr) {
    TROUPE_TRY(filtered, evaluate_filters(*s.of, filtered));
  }
  return assign_one(s.targets[0], std::move(filtered), s.at);
}

// Runs a body into a string, in `in` or else in a new scope below the current one.
result<text> interpreter::capture(const block& body, scope* in) {
  scope* const outer = scope_;
  text* const outer_out = out_;
  if (in == nullptr) {
    in = &scopes_.emplace_back();
    in->parent = outer;
  }
  text made;
  scope_ = in;
  out_ = &made;
  const auto then = run_block(body);
  scope_ = outer;
  out_ = outer_out;
  if (!then) return tl::unexpected(then.error());
  return made;
}

result<void> interpreter::run_call(const statement& s) {
  // As `caller`, the body is a macro of this scope.
  TROUPE_TRY(const value callee, evaluate(*s.of->items[0]));
  object* thing = callee.as_object();
  if (thing == nullptr) return wrong(s.at, describe(*s.of->items[0]) + " is not callable");
  TROUPE_TRY(arguments args, evaluate_arguments(s.of->arguments));
  args.keyword.emplace_back("caller", heap_.make_object<macro_object>(s, "caller", scope_));
  TROUPE_TRY(const value made, thing->call(*this, args));
  TROUPE_TRY(const text printed, to_text(made));
  return emit(printed);
}

result<interpreter::flow> interpreter::run_scope(const statement& s) {
  scope* const outer = scope_;
  scope& inner = scopes_.emplace_back();
  inner.parent = outer;
  for (std::size_t i = 0; i < s.targets.size(); ++i) {
    TROUPE_TRY(value made, evaluate(*s.values[i]));
    inner.set(s.targets[i].id, std::move(made));
  }
  scope_ = &inner;
  auto then = run_block(s.body);
  scope_ = outer;
  return then;
}

result<void> interpreter::assign(const std::vector<target>& targets, const value& to, position at) {
  if (targets.size() == 1) return assign_one(targets[0], to, at);
  TROUPE_TRY(const auto parts, iterate(to));
  if (parts.size() != targets.size())
    return wrong(at, "cannot unpack " + std::to_string(parts.size()) + " values into " +
                         std::to_string(targets.size()) + " names");
  for (std::size_t i = 0; i < parts.size(); ++i) TROUPE_CHECK(assign_one(targets[i], parts[i], at));
  return {};
}

result<void> interpreter::assign_one(const target& to, value what, position at) {
  if (to.attribute.empty()) {
    scope_->set(to.id, std::move(what));
    return {};
  }
  const value of = look_up(to.id);
  dict* held = of.as_dict();
  if (held == nullptr || !held->is_namespace)
    return wrong(at,
                 "cannot assign attribute on non-namespace object '" + program_.name(to.id) + "'");
  TROUPE_CHECK(spend(held->items.size() / 16));
  held->set(to.attribute, std::move(what), origin::source);
  return {};
}

result<value> interpreter::call_macro(const statement& macro, std::string_view name, scope* closure,
                                      const arguments& args) {
  scope& inner = scopes_.emplace_back();
  inner.parent = closure;
  const auto& parameters = macro.parameters;
  std::vector<value> rest;
  for (std::size_t i = 0; i < args.positional.size(); ++i) {
    if (i < parameters.size()) {
      inner.set(parameters[i].id, args.positional[i]);
    } else {
      rest.push_back(args.positional[i]);
    }
  }
  const symbol varargs = program_.find("varargs"), caller = program_.find("caller");
  if (varargs != program::npos) {
    TROUPE_TRY(value more, make_list(std::move(rest), true));
    inner.set(varargs, std::move(more));
  } else if (!rest.empty()) {
    return fail(ec::invalid_argument, "macro '" + std::string(name) + "' takes not more than " +
                                          std::to_string(parameters.size()) + " argument(s)");
  }
  for (const auto& [key, of] : args.keyword) {
    const symbol id = program_.find(key);
    const auto named = [&](const parameter& p) { return p.id == id; };
    if (std::ranges::any_of(parameters, named)) {
      inner.set(id, of);
    } else if (key == "caller") {
      if (caller != program::npos) inner.set(caller, of);
    } else {
      return fail(
          ec::invalid_argument,
          "macro '" + std::string(name) + "' takes no keyword argument '" + std::string(key) + "'");
    }
  }
  scope* const outer = scope_;
  for (const parameter& p : parameters) {
    if (inner.find_here(p.id) != nullptr) continue;
    scope_ = &inner;
    result<value> fallback = p.fallback != nullptr ? evaluate(*p.fallback) : value();
    scope_ = outer;
    if (!fallback) return fallback;
    inner.set(p.id, std::move(*fallback));
  }
  TROUPE_TRY(text made, capture(macro.body, &inner));
  return make_string(std::move(made));
}

}  // namespace troupe::model::jinja
