// Filters of numbers and defaults, methods of lists and dicts, functions, and the look-ups by name.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <ctime>

#include "model/jinja_builtins.hpp"
#include "model/jinja_interpreter.hpp"
#include "model/jinja_strings.hpp"

namespace troupe::model::jinja {
namespace {

// jinja2's sandbox allows as many.
constexpr std::int64_t max_range = 100'000;

result<value> fallback(interpreter&, const value& self, const arguments& args) {
  const value *given = args.get(0, "default_value"), *if_false = args.get(1, "boolean");
  const bool missing =
      self.is_undefined() || (if_false != nullptr && if_false->truthy() && !self.truthy());
  if (!missing) return self;
  return given != nullptr ? *given : value::literal("");
}

std::optional<double> parse_real(std::string_view text) {
  double number = 0;
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  return code == std::errc() && end == text.data() + text.size() ? std::optional(number)
                                                                 : std::nullopt;
}

// As Python's int(text, base): 0x, 0o and 0b are allowed where they fit the base.
std::optional<std::int64_t> parse_integer(std::string_view text, int base) {
  std::int64_t number = 0;
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const std::string_view prefix = base == 16 ? "0x" : base == 8 ? "0o" : base == 2 ? "0b" : "";
  if (!prefix.empty() && text.starts_with(prefix)) text.remove_prefix(2);
  if (text.starts_with('-')) return std::nullopt;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return negative ? -number : number;
}

std::optional<std::int64_t> truncated(double number) {
  if (!(std::fabs(number) < 9.2e18)) return std::nullopt;
  return static_cast<std::int64_t>(number);
}

result<value> to_integer(interpreter&, const value& self, const arguments& args) {
  if (self.is_undefined()) return fail(ec::invalid_argument, "int of something undefined");
  const value *other = args.get(0, "default"), *base = args.get(1, "base");
  const value otherwise = other != nullptr ? *other : value(std::int64_t{0});
  if (const auto number = self.as_integer()) return value(*number);
  std::optional<std::int64_t> made;
  if (const double* real = self.real()) made = truncated(*real);
  if (const text* string = self.string()) {
    const text digits = strip(*string, std::nullopt, side::both);
    const std::int64_t radix = base != nullptr ? base->as_integer().value_or(10) : 10;
    made = parse_integer(digits.bytes(), static_cast<int>(std::clamp<std::int64_t>(radix, 2, 36)));
    if (!made) {
      if (const auto real = parse_real(digits.bytes())) made = truncated(*real);
    }
  }
  return made ? value(*made) : otherwise;
}

result<value> to_real(interpreter&, const value& self, const arguments& args) {
  if (self.is_undefined()) return fail(ec::invalid_argument, "float of something undefined");
  const value* other = args.get(0, "default");
  if (const auto number = self.as_real()) return value(*number);
  if (const text* string = self.string())
    if (const auto number = parse_real(strip(*string, std::nullopt, side::both).bytes()))
      return value(*number);
  return other != nullptr ? *other : value(0.0);
}

result<value> absolute(interpreter& in, const value& self, const arguments&) {
  if (self.real()) return value(std::fabs(*self.real()));
  const auto number = self.as_integer();
  if (!number)
    return fail(ec::invalid_argument,
                "bad operand type for abs: '" + std::string(self.type_name()) + "'");
  return *number < 0 ? calculate(in, operation::subtract, value(std::int64_t{0}), value(*number))
                     : value(*number);
}

result<value> rounded(interpreter&, const value& self, const arguments& args) {
  const value *precision = args.get(0, "precision"), *method = args.get(1, "method");
  const auto digits = precision != nullptr ? precision->as_integer().value_or(0) : 0;
  const std::string how =
      method != nullptr && method->string() ? method->string()->bytes() : "common";
  const auto number = self.as_real();
  if (!number)
    return fail(ec::invalid_argument,
                "round takes a number, not '" + std::string(self.type_name()) + "'");
  if (how == "common") {
    if (self.as_integer() && digits >= 0) return value(*self.as_integer());
    if (digits < 0 || !std::isfinite(*number)) {
      const double scale =
          std::pow(10.0, static_cast<double>(std::max<std::int64_t>(digits, -300)));
      return value(std::isfinite(*number) ? std::nearbyint(*number * scale) / scale : *number);
    }
    // The exact decimal expansion decides, as in Python; 310 digits before the point at most.
    std::array<char, 352> buffer{};
    std::snprintf(buffer.data(), buffer.size(), "%.*f",
                  static_cast<int>(std::min<std::int64_t>(digits, 30)), *number);
    return value(parse_real(buffer.data()).value_or(*number));
  }
  if (how != "ceil" && how != "floor")
    return fail(ec::invalid_argument, "round: method must be common, ceil or floor");
  const double scale =
      std::pow(10.0, static_cast<double>(std::clamp<std::int64_t>(digits, -300, 300)));
  return value((how == "ceil" ? std::ceil(*number * scale) : std::floor(*number * scale)) / scale);
}

// Methods of lists and dicts.

result<value> append(interpreter& in, const value& self, const arguments& args) {
  if (args.positional.size() != 1) return fail(ec::invalid_argument, "append takes one argument");
  TROUPE_CHECK(in.spend(1));
  self.as_list()->items.push_back(args.positional[0]);
  return value(none{});
}

result<value> count_of(interpreter& in, const value& self, const arguments& args) {
  const value* what = args.get(0, "value");
  if (what == nullptr) return fail(ec::invalid_argument, "a value is missing");
  std::size_t count = 0;
  for (const value& one : self.as_list()->items) {
    TROUPE_TRY(const bool same_value, in.equal(one, *what));
    count += same_value;
  }
  return value::number(count);
}

result<value> index_of(interpreter& in, const value& self, const arguments& args) {
  const value* what = args.get(0, "value");
  if (what == nullptr) return fail(ec::invalid_argument, "a value is missing");
  const auto& items = self.as_list()->items;
  for (std::size_t i = 0; i < items.size(); ++i) {
    TROUPE_TRY(const bool same_value, in.equal(items[i], *what));
    if (same_value) return value::number(i);
  }
  return fail(ec::invalid_argument, "the value is not in the list");
}

result<value> get(interpreter& in, const value& self, const arguments& args) {
  const value *key = args.get(0, "key"), *other = args.get(1, "default");
  if (key == nullptr) return fail(ec::invalid_argument, "get takes a key");
  TROUPE_TRY(const value* found, in.find(*self.as_dict(), *key));
  if (found != nullptr) return *found;
  return other != nullptr ? *other : value(none{});
}

template <int part>  // 0: keys, 1: values, 2: pairs
result<value> entries(interpreter& in, const value& self, const arguments&) {
  std::vector<value> made;
  for (const auto& [key, held] : self.as_dict()->items) {
    if constexpr (part == 2) {
      TROUPE_TRY(value pair, in.make_list({key, held}, true));
      made.push_back(std::move(pair));
    } else {
      made.push_back(part == 0 ? key : held);
    }
  }
  return in.make_list(std::move(made));
}

result<value> copy(interpreter& in, const value& self, const arguments&) {
  if (const list* of = self.as_list()) return in.make_list(of->items, of->tuple);
  TROUPE_CHECK(in.spend(self.as_dict()->items.size()));
  dict* made = in.memory().make_dict();
  made->items = self.as_dict()->items;
  return value(made);
}

// Functions.

result<value> range(interpreter& in, const value&, const arguments& args) {
  std::array<std::int64_t, 3> parts{0, 0, 1};
  if (args.positional.empty())
    return fail(ec::invalid_argument, "range takes one to three integers");
  for (std::size_t i = 0; i < args.positional.size(); ++i) {
    const auto number = args.positional[i].as_integer();
    if (!number) return fail(ec::invalid_argument, "range takes integers");
    parts[i] = *number;
  }
  auto [start, stop, step] = parts;
  if (args.positional.size() == 1) std::swap(start, stop);
  if (step == 0) return fail(ec::invalid_argument, "range: the step must not be zero");
  constexpr std::int64_t bound = std::int64_t{1} << 60;
  for (const std::int64_t part : {start, stop, step})
    if (part > bound || part < -bound)
      return fail(ec::invalid_argument, "range: the number is too large");
  const std::int64_t count = std::max<std::int64_t>(
      0, step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step);
  if (count > max_range)
    return fail(ec::invalid_argument,
                "range is too large: at most " + std::to_string(max_range) + " numbers");
  TROUPE_CHECK(in.spend(static_cast<std::uint64_t>(count)));
  std::vector<value> made;
  for (std::int64_t i = 0; i < count; ++i) made.emplace_back(start + i * step);
  return in.make_list(std::move(made));
}

template <bool is_namespace>
result<value> make_mapping(interpreter& in, const value&, const arguments& args) {
  dict* made = in.memory().make_dict();
  made->is_namespace = is_namespace;
  if (args.positional.size() > 1)
    return fail(ec::invalid_argument, "expected at most one positional argument");
  if (!args.positional.empty()) {
    const dict* from = args.positional[0].as_dict();
    if (from == nullptr) return fail(ec::invalid_argument, "expected a mapping");
    TROUPE_CHECK(in.spend(from->items.size()));
    made->items = from->items;
  }
  for (const auto& [key, of] : args.keyword) made->set(key, of, origin::source);
  return value(made);
}

result<value> raise_exception(interpreter& in, const value&, const arguments& args) {
  text message;
  if (!args.positional.empty()) {
    TROUPE_TRY(message, in.to_text(args.positional[0]));
  }
  in.set_raised();
  return fail(ec::invalid_argument, message.bytes());
}

// The local time, as `transformers` has it.
result<value> strftime_now(interpreter& in, const value&, const arguments& args) {
  const text* format = args.positional.empty() ? nullptr : args.positional[0].string();
  if (format == nullptr || format->size() > 256)
    return fail(ec::invalid_argument, "strftime_now takes a format");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 4096> buffer{};
  const std::size_t length =
      std::strftime(buffer.data(), buffer.size(), format->bytes().c_str(), &local);
  return in.make_string(text(std::string(buffer.data(), length), origin::source));
}

const builtin* find_in(std::span<const builtin> table, std::string_view name) {
  const auto found = std::ranges::find(table, name, &builtin::name);
  return found == table.end() ? nullptr : &*found;
}

}  // namespace

std::span<const builtin> value_filters() {
  static const std::vector<builtin> table = {
      {"default", fallback, {"default_value", "boolean"}},
      {"d", fallback, {"default_value", "boolean"}},
      {"int", to_integer, {"default", "base"}},
      {"float", to_real, {"default"}},
      {"abs", absolute},
      {"round", rounded, {"precision", "method"}},
      {"tojson", to_json, {"indent", "ensure_ascii", "separators", "sort_keys"}},
  };
  return table;
}

const builtin* find_filter(std::string_view name) {
  for (const auto table : {text_filters(), list_filters(), value_filters()})
    if (const builtin* found = find_in(table, name)) return found;
  return nullptr;
}

const builtin* find_method(const value& of, std::string_view name) {
  static const std::vector<builtin> lists = {{"append", append, {"object"}},
                                             {"count", count_of, {"value"}},
                                             {"index", index_of, {"value"}},
                                             {"copy", copy}};
  static const std::vector<builtin> dicts = {{"get", get, {"key", "default"}},
                                             {"keys", entries<0>},
                                             {"values", entries<1>},
                                             {"items", entries<2>},
                                             {"copy", copy}};
  if (of.string()) return find_in(text_methods(), name);
  if (of.as_list()) return find_in(lists, name);
  if (of.as_dict() && !of.as_dict()->is_namespace) return find_in(dicts, name);
  return nullptr;
}

std::span<const builtin> functions() {
  static const std::vector<builtin> table = {
      {"range", range, {"start", "stop", "step"}},
      {"dict", make_mapping<false>, {}, true},
      {"namespace", make_mapping<true>, {}, true},
      {"raise_exception", raise_exception, {"message"}},
      {"strftime_now", strftime_now, {"format"}},
  };
  return table;
}

}  // namespace troupe::model::jinja
