#include "model/jinja_value.hpp"

#include <array>
#include <charconv>
#include <cmath>

namespace troupe::model::jinja {

std::optional<std::int64_t> value::as_integer() const {
  if (const auto* number = integer()) return *number;
  if (const auto* flag = boolean()) return *flag ? 1 : 0;
  return std::nullopt;
}

std::optional<double> value::as_real() const {
  if (const auto* number = real()) return *number;
  if (const auto number = as_integer()) return static_cast<double>(*number);
  return std::nullopt;
}

bool value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (const auto number = as_real()) return *number != 0;
  if (const auto* held = string()) return !held->empty();
  if (const auto* held = as_list()) return !held->items.empty();
  if (const auto* held = as_dict()) return held->is_namespace || !held->items.empty();
  return true;
}

std::string_view value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (boolean()) return "bool";
  if (integer()) return "int";
  if (real()) return "float";
  if (string()) return "str";
  if (const auto* held = as_list()) return held->tuple ? "tuple" : "list";
  if (const auto* held = as_dict()) return held->is_namespace ? "Namespace" : "dict";
  return as_object()->type_name();
}

const value* dict::find(std::string_view key) const {
  for (const auto& [name, held] : items)
    if (const text* string = name.string(); string && string->bytes() == key) return &held;
  return nullptr;
}

void dict::set(std::string_view key, value to, origin from) {
  if (const value* held = find(key)) {
    const_cast<value&>(*held) = std::move(to);
  } else {
    items.emplace_back(text(std::string(key), from), std::move(to));
  }
}

const value* arguments::get(std::size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, held] : keyword)
    if (key == name) return &held;
  return nullptr;
}

result<value> object::call(interpreter&, const arguments&) {
  return fail(ec::invalid_argument, "'" + std::string(type_name()) + "' object is not callable");
}

std::string format_real(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  const double size = std::fabs(number);
  std::array<char, 64> buffer{};
  // Python writes exponents below 1e-4 and from 1e16.
  const auto format = size != 0 && (size < 1e-4 || size >= 1e16) ? std::chars_format::scientific
                                                                 : std::chars_format::fixed;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, format).ptr;
  std::string out(buffer.data(), end);
  if (out.find_first_of(".e") == out.npos) out += ".0";
  return out;
}

}  // namespace troupe::model::jinja
