// Operators of the interpreter, after Python's: numbers, sequences, equality, order, membership.
#include <algorithm>
#include <cmath>

#include "model/jinja_interpreter.hpp"
#include "model/unicode.hpp"

namespace troupe::model::jinja {
namespace {

std::string_view sign_of(operation how) {
  switch (how) {
    case operation::add:
      return "+";
    case operation::subtract:
      return "-";
    case operation::multiply:
      return "*";
    case operation::divide:
      return "/";
    case operation::floor_divide:
      return "//";
    case operation::modulo:
      return "%";
    default:
      return "**";
  }
}

tl::unexpected<error> too_large() {
  return fail(ec::invalid_argument, "the number is too large");
}

result<value> integer_power(std::int64_t base, std::int64_t exponent) {
  if (exponent < 0)
    return value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  std::int64_t made = 1;
  if (base == 0 || base == 1) return value(exponent == 0 ? 1 : base);
  if (base == -1) return value(std::int64_t{exponent % 2 == 0 ? 1 : -1});
  // Any other base overflows before the 64th turn.
  for (; exponent > 0; --exponent)
    if (__builtin_mul_overflow(made, base, &made)) return too_large();
  return value(made);
}

result<value> integers(operation how, std::int64_t a, std::int64_t b) {
  std::int64_t made = 0;
  switch (how) {
    case operation::add:
      return __builtin_add_overflow(a, b, &made) ? result<value>(too_large()) : value(made);
    case operation::subtract:
      return __builtin_sub_overflow(a, b, &made) ? result<value>(too_large()) : value(made);
    case operation::multiply:
      return __builtin_mul_overflow(a, b, &made) ? result<value>(too_large()) : value(made);
    case operation::power:
      return integer_power(a, b);
    default:
      break;
  }
  if (b == 0) return fail(ec::invalid_argument, "division by zero");
  if (how == operation::divide) return value(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) {
    if (how == operation::modulo) return value(std::int64_t{0});
    return __builtin_sub_overflow(std::int64_t{0}, a, &made) ? result<value>(too_large())
                                                             : value(made);
  }
  // Towards minus infinity, as Python does.
  const bool down = a % b != 0 && (a < 0) != (b < 0);
  return how == operation::modulo ? value(a % b + (down ? b : 0)) : value(a / b - (down ? 1 : 0));
}

result<value> reals(operation how, double a, double b) {
  switch (how) {
    case operation::add:
      return value(a + b);
    case operation::subtract:
      return value(a - b);
    case operation::multiply:
      return value(a * b);
    case operation::power:
      return value(std::pow(a, b));
    default:
      break;
  }
  if (b == 0) return fail(ec::invalid_argument, "float division by zero");
  if (how == operation::divide) return value(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  return value(how == operation::modulo ? remainder : std::round((a - remainder) / b));
}

result<value> repeat(interpreter& in, const value& what, std::int64_t times) {
  const auto count = static_cast<std::uint64_t>(std::max<std::int64_t>(times, 0));
  if (const text* string = what.string()) {
    if (string->empty()) return what;
    TROUPE_CHECK(in.spend(count));
    if (string->size() * count > in.limits().output_bytes)
      return fail(ec::invalid_argument, "the string is too long");
    text made;
    for (std::uint64_t i = 0; i < count; ++i) made.append(*string);
    return in.make_string(std::move(made));
  }
  const auto& items = what.as_list()->items;
  std::vector<value> made;
  for (std::uint64_t i = 0; i < count && !items.empty(); ++i) {
    TROUPE_CHECK(in.spend(items.size()));
    made.insert(made.end(), items.begin(), items.end());
  }
  return in.make_list(std::move(made), what.as_list()->tuple);
}

// Index of the slice's bound, after Python's rules for a positive or negative step.
result<std::int64_t> bound(const value& of, std::int64_t size, std::int64_t step,
                           std::int64_t fallback) {
  if (of.is_none() || of.is_undefined()) return fallback;
  const auto index = of.as_integer();
  if (!index) return fail(ec::invalid_argument, "slice indices must be integers");
  const std::int64_t low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
  return std::clamp(*index < 0 ? std::max(*index, -size - 1) + size : *index, low, high);
}

// Where each character starts, and the end.
std::vector<std::size_t> character_starts(std::string_view bytes) {
  std::vector<std::size_t> starts;
  for (std::size_t at = 0; at < bytes.size(); at += first_code_point(bytes.substr(at)).length)
    starts.push_back(at);
  starts.push_back(bytes.size());
  return starts;
}

}  // namespace

result<value> calculate(interpreter& in, operation how, const value& a, const value& b) {
  const auto left = a.as_integer(), right = b.as_integer();
  if (left && right) return integers(how, *left, *right);
  const auto x = a.as_real(), y = b.as_real();
  if (x && y) return reals(how, *x, *y);
  if (how == operation::add && a.string() && b.string()) {
    TROUPE_CHECK(in.spend_bytes(a.string()->size()));
    text made = *a.string();
    made.append(*b.string());
    return in.make_string(std::move(made));
  }
  if (how == operation::add && a.as_list() && b.as_list() &&
      a.as_list()->tuple == b.as_list()->tuple) {
    TROUPE_CHECK(in.spend(a.as_list()->items.size() + b.as_list()->items.size()));
    std::vector<value> made = a.as_list()->items;
    made.insert(made.end(), b.as_list()->items.begin(), b.as_list()->items.end());
    return in.make_list(std::move(made), a.as_list()->tuple);
  }
  if (how == operation::multiply && (a.string() || a.as_list()) && right)
    return repeat(in, a, *right);
  if (how == operation::multiply && (b.string() || b.as_list()) && left)
    return repeat(in, b, *left);
  return fail(ec::invalid_argument, "unsupported operand types for " + std::string(sign_of(how)) +
                                        ": '" + std::string(a.type_name()) + "' and '" +
                                        std::string(b.type_name()) + "'");
}

result<value> slice(interpreter& in, const value& of, const value& start, const value& stop,
                    const value& step_value) {
  const text* string = of.string();
  const list* items = of.as_list();
  if (string == nullptr && items == nullptr)
    return fail(ec::invalid_argument,
                "'" + std::string(of.type_name()) + "' object cannot be sliced");
  std::vector<std::size_t> starts;
  if (string != nullptr) {
    TROUPE_CHECK(in.spend_bytes(8 * string->size()));
    starts = character_starts(string->bytes());
  }
  const auto size =
      static_cast<std::int64_t>(string != nullptr ? starts.size() - 1 : items->items.size());
  const std::int64_t step =
      step_value.is_none() || step_value.is_undefined() ? 1 : step_value.as_integer().value_or(0);
  if (step == 0) return fail(ec::invalid_argument, "slice step must be an integer other than zero");
  TROUPE_TRY(const std::int64_t from, bound(start, size, step, step < 0 ? size - 1 : 0));
  TROUPE_TRY(const std::int64_t to, bound(stop, size, step, step < 0 ? -1 : size));
  const auto index = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  if (string != nullptr && step == 1)
    return in.make_string(from < to ? string->slice(starts[index(from)], starts[index(to)])
                                    : text());
  text chars;
  std::vector<value> kept;
  // |step| may be so large that i + step overflows: stop when the rest is shorter.
  for (std::int64_t i = from; step > 0 ? i < to : i > to; i += step) {
    TROUPE_CHECK(in.spend(1));
    if (string != nullptr) {
      chars.append_slice(*string, starts[index(i)], starts[index(i) + 1]);
    } else {
      kept.push_back(items->items[index(i)]);
    }
    if (step > 0 ? step >= to - i : step <= to - i) break;
  }
  return string != nullptr ? in.make_string(std::move(chars))
                           : in.make_list(std::move(kept), items->tuple);
}

result<std::vector<value>> interpreter::iterate(const value& of) {
  if (of.is_undefined()) return std::vector<value>();
  std::vector<value> items;
  if (const list* held = of.as_list()) {
    TROUPE_CHECK(spend(held->items.size()));
    return held->items;
  }
  if (const dict* held = of.as_dict(); held != nullptr && !held->is_namespace) {
    TROUPE_CHECK(spend(held->items.size()));
    for (const auto& [key, unused] : held->items) items.push_back(key);
    return items;
  }
  if (const text* string = of.string()) {
    TROUPE_CHECK(spend(string->size()));
    const auto starts = character_starts(string->bytes());
    for (std::size_t i = 0; i + 1 < starts.size(); ++i)
      items.emplace_back(string->slice(starts[i], starts[i + 1]));
    return items;
  }
  return fail(ec::invalid_argument, "'" + std::string(of.type_name()) + "' object is not iterable");
}

result<bool> interpreter::equal(const value& a, const value& b) {
  const nesting level(*this);
  TROUPE_CHECK(level.check());
  TROUPE_CHECK(spend(1));
  if (const auto x = a.as_integer(), y = b.as_integer(); x && y) return *x == *y;
  if (const auto x = a.as_real(), y = b.as_real(); x && y) return *x == *y;
  if (a.string() && b.string()) {
    TROUPE_CHECK(spend_bytes(a.string()->size()));
    return a.string()->bytes() == b.string()->bytes();
  }
  if (const list* x = a.as_list(), *y = b.as_list(); x && y) {
    if (x->items.size() != y->items.size() || x->tuple != y->tuple) return false;
    for (std::size_t i = 0; i < x->items.size(); ++i) {
      TROUPE_TRY(const bool same, equal(x->items[i], y->items[i]));
      if (!same) return false;
    }
    return true;
  }
  if (const dict* x = a.as_dict(), *y = b.as_dict(); x && y && x != y) {
    if (x->items.size() != y->items.size() || x->is_namespace || y->is_namespace) return false;
    for (const auto& [key, held] : x->items) {
      TROUPE_TRY(const value* other, find(*y, key));
      if (other == nullptr) return false;
      TROUPE_TRY(const bool same, equal(held, *other));
      if (!same) return false;
    }
    return true;
  }
  if (a.as_dict() || a.as_object())
    return a.as_dict() == b.as_dict() && a.as_object() == b.as_object();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

result<int> interpreter::order(const value& a, const value& b) {
  const nesting level(*this);
  TROUPE_CHECK(level.check());
  TROUPE_CHECK(spend(1));
  if (const auto x = a.as_integer(), y = b.as_integer(); x && y) return *x < *y ? -1 : *x > *y;
  if (const auto x = a.as_real(), y = b.as_real(); x && y) return *x < *y ? -1 : *x > *y;
  if (a.string() && b.string()) {
    TROUPE_CHECK(spend_bytes(a.string()->size()));
    return a.string()->bytes().compare(b.string()->bytes());
  }
  if (const list* x = a.as_list(), *y = b.as_list(); x && y && x->tuple == y->tuple) {
    for (std::size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i) {
      TROUPE_TRY(const bool same, equal(x->items[i], y->items[i]));
      if (!same) return order(x->items[i], y->items[i]);
    }
    return x->items.size() < y->items.size() ? -1 : x->items.size() > y->items.size();
  }
  return fail(ec::invalid_argument, "'<' not supported between '" + std::string(a.type_name()) +
                                        "' and '" + std::string(b.type_name()) + "'");
}

result<bool> interpreter::contains(const value& container, const value& element) {
  if (container.is_undefined()) return false;
  if (const text* string = container.string()) {
    const text* part = element.string();
    if (part == nullptr)
      return fail(ec::invalid_argument, "'in <string>' requires a string, not '" +
                                            std::string(element.type_name()) + "'");
    TROUPE_CHECK(spend_bytes(string->size()));
    return string->bytes().find(part->bytes()) != std::string::npos;
  }
  if (const dict* held = container.as_dict(); held != nullptr && !held->is_namespace) {
    if (element.as_list() || element.as_dict())
      return fail(ec::invalid_argument,
                  "unhashable type: '" + std::string(element.type_name()) + "'");
    TROUPE_TRY(const value* found, find(*held, element));
    return found != nullptr;
  }
  const list* held = container.as_list();
  if (held == nullptr)
    return fail(ec::invalid_argument,
                "argument of type '" + std::string(container.type_name()) + "' is not iterable");
  for (const value& one : held->items) {
    TROUPE_TRY(const bool same, equal(one, element));
    if (same) return true;
  }
  return false;
}

}  // namespace troupe::model::jinja
