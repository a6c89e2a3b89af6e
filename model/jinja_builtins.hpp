// The filters, tests, methods and functions that templates may use, by name. Tables are immutable, any thread;
// the functions run within one interpreter.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/jinja_value.hpp"

namespace troupe::model::jinja {

class interpreter;

struct builtin {
  std::string_view name;
  // `self` is what is filtered or tested, or the object of a method; undefined for a function.
  result<value> (*run)(interpreter& in, const value& self, const arguments& args);
  // Names of the arguments after `self`, in order; only these are accepted.
  std::vector<std::string_view> parameters = {};
  bool variadic = false;  // any arguments
};

// nullptr when not known.
const builtin* find_filter(std::string_view name);
const builtin* find_test(std::string_view name);
const builtin* find_method(const value& of, std::string_view name);
std::span<const builtin> functions();

// One table a file.
std::span<const builtin> text_filters();
std::span<const builtin> list_filters();
std::span<const builtin> value_filters();
std::span<const builtin> text_methods();

// Python's json.dumps, as `transformers` calls it.
result<value> to_json(interpreter& in, const value& self, const arguments& args);
// Every string in it is of the given origin.
template <class Json>
result<value> from_json(interpreter& in, const Json& json, origin from);

}  // namespace troupe::model::jinja
