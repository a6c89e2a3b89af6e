// The tests: `x is defined` and the like.
#include <algorithm>

#include "model/jinja_builtins.hpp"
#include "model/jinja_interpreter.hpp"

namespace troupe::model::jinja {
namespace {

using predicate = bool(const value&);
template <predicate holds>
result<value> test(interpreter&, const value& self, const arguments&) {
  return value(holds(self));
}
bool is_undefined(const value& v) {
  return v.is_undefined();
}
bool is_defined(const value& v) {
  return !v.is_undefined();
}
bool is_none(const value& v) {
  return v.is_none();
}
bool is_string(const value& v) {
  return v.string() != nullptr;
}
bool is_number(const value& v) {
  return v.as_real().has_value();
}
bool is_integer(const value& v) {
  return v.integer() != nullptr;
}
bool is_real(const value& v) {
  return v.real() != nullptr;
}
bool is_boolean(const value& v) {
  return v.boolean() != nullptr;
}
bool is_true(const value& v) {
  return v.boolean() != nullptr && *v.boolean();
}
bool is_false(const value& v) {
  return v.boolean() != nullptr && !*v.boolean();
}
bool is_mapping(const value& v) {
  return v.as_dict() != nullptr && !v.as_dict()->is_namespace;
}
bool is_sequence(const value& v) {
  return v.as_list() != nullptr || v.string() != nullptr || is_mapping(v) || v.is_undefined();
}
bool is_callable(const value& v) {
  return v.as_object() != nullptr && v.as_object()->callable();
}

template <int remainder>
result<value> parity(interpreter& in, const value& self, const arguments&) {
  TROUPE_TRY(const value rest, calculate(in, operation::modulo, self, value(std::int64_t{2})));
  return value(rest.as_real() == remainder);
}

template <bool upper_case>
result<value> case_test(interpreter& in, const value& self, const arguments&) {
  TROUPE_TRY(const text of, in.to_text(self));
  const value string((text(of)));
  return in.apply(*find_method(string, upper_case ? "isupper" : "islower"), string, {});
}

result<const value*> operand(const arguments& args) {
  if (args.positional.empty()) return fail(ec::invalid_argument, "the test takes an argument");
  return &args.positional[0];
}

template <operation how>
result<value> comparison(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const value* other, operand(args));
  if constexpr (how == operation::equal || how == operation::not_equal) {
    TROUPE_TRY(const bool same, in.equal(self, *other));
    return value(same == (how == operation::equal));
  } else if constexpr (how == operation::in) {
    TROUPE_TRY(const bool held, in.contains(*other, self));
    return value(held);
  } else {
    TROUPE_TRY(const int sign, in.order(self, *other));
    return value(how == operation::less         ? sign < 0
                 : how == operation::less_equal ? sign <= 0
                 : how == operation::greater    ? sign > 0
                                                : sign >= 0);
  }
}

result<value> divisible(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const value* by, operand(args));
  TROUPE_TRY(const value rest, calculate(in, operation::modulo, self, *by));
  return value(!rest.truthy());
}

result<value> same(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const value* other, operand(args));
  if (self.type_name() != other->type_name()) return value(false);
  if (self.as_list() || self.as_dict())
    return value(self.as_list() == other->as_list() && self.as_dict() == other->as_dict());
  TROUPE_TRY(const bool equal, in.equal(self, *other));
  return value(equal);
}

}  // namespace

const builtin* find_test(std::string_view name) {
  static const std::vector<builtin> table = {
      {"defined", test<is_defined>},
      {"undefined", test<is_undefined>},
      {"none", test<is_none>},
      {"string", test<is_string>},
      {"number", test<is_number>},
      {"integer", test<is_integer>},
      {"float", test<is_real>},
      {"boolean", test<is_boolean>},
      {"true", test<is_true>},
      {"false", test<is_false>},
      {"mapping", test<is_mapping>},
      {"iterable", test<is_sequence>},
      {"sequence", test<is_sequence>},
      {"callable", test<is_callable>},
      {"even", parity<0>},
      {"odd", parity<1>},
      {"upper", case_test<true>},
      {"lower", case_test<false>},
      {"divisibleby", divisible, {"num"}},
      {"sameas", same, {"other"}},
      {"in", comparison<operation::in>, {"seq"}},
      {"equalto", comparison<operation::equal>, {"other"}},
      {"eq", comparison<operation::equal>, {"other"}},
      {"==", comparison<operation::equal>, {"other"}},
      {"ne", comparison<operation::not_equal>, {"other"}},
      {"!=", comparison<operation::not_equal>, {"other"}},
      {"lt", comparison<operation::less>, {"other"}},
      {"lessthan", comparison<operation::less>, {"other"}},
      {"<", comparison<operation::less>, {"other"}},
      {"le", comparison<operation::less_equal>, {"other"}},
      {"<=", comparison<operation::less_equal>, {"other"}},
      {"gt", comparison<operation::greater>, {"other"}},
      {"greaterthan", comparison<operation::greater>, {"other"}},
      {">", comparison<operation::greater>, {"other"}},
      {"ge", comparison<operation::greater_equal>, {"other"}},
      {">=", comparison<operation::greater_equal>, {"other"}},
  };
  const auto found = std::ranges::find(table, name, &builtin::name);
  return found == table.end() ? nullptr : &*found;
}

}  // namespace troupe::model::jinja
