// Filters and methods of strings.
#include <algorithm>
#include <utility>

#include "model/jinja_builtins.hpp"
#include "model/jinja_interpreter.hpp"
#include "model/jinja_strings.hpp"
#include "model/unicode.hpp"

namespace troupe::model::jinja {
namespace {

// The string of an optional argument; nullptr: not given or none.
result<const text*> optional_string(const arguments& args, std::size_t index,
                                    std::string_view name) {
  const value* given = args.get(index, name);
  if (given == nullptr || given->is_none() || given->is_undefined()) return nullptr;
  if (given->string() == nullptr)
    return fail(ec::invalid_argument, "'" + std::string(name) + "' must be a string, not '" +
                                          std::string(given->type_name()) + "'");
  return given->string();
}

result<const text*> needed_string(const arguments& args, std::size_t index, std::string_view name) {
  TROUPE_TRY(const text* given, optional_string(args, index, name));
  if (given == nullptr)
    return fail(ec::invalid_argument, "'" + std::string(name) + "' must be a string");
  return given;
}

result<std::int64_t> optional_integer(const arguments& args, std::size_t index,
                                      std::string_view name, std::int64_t fallback) {
  const value* given = args.get(index, name);
  if (given == nullptr || given->is_none() || given->is_undefined()) return fallback;
  if (!given->as_integer())
    return fail(ec::invalid_argument, "'" + std::string(name) + "' must be an integer");
  return *given->as_integer();
}

// Filters print what they are given first, methods have a string.
template <text (*change)(const text&)>
result<value> changed(interpreter& in, const value& self, const arguments&) {
  TROUPE_TRY(const text of, in.to_text(self));
  return in.make_string(change(of));
}

template <side where>
result<value> stripped(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const text of, in.to_text(self));
  TROUPE_TRY(const text* chars, optional_string(args, 0, "chars"));
  if (chars != nullptr) TROUPE_CHECK(in.spend(of.size() / 64 * (chars->size() + 1)));
  return in.make_string(
      strip(of, chars != nullptr ? std::optional<std::string_view>(chars->bytes()) : std::nullopt,
            where));
}

// Occurrences that do not overlap; of the empty text one a character, and one at the end.
std::size_t count_parts(std::string_view of, std::string_view what) {
  if (what.empty()) return count_code_points(of) + 1;
  std::size_t count = 0;
  for (std::size_t at = 0; (at = of.find(what, at)) != of.npos; at += what.size()) ++count;
  return count;
}

result<value> replaced(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const text of, in.to_text(self));
  const value *old_value = args.get(0, "old"), *new_value = args.get(1, "new");
  if (old_value == nullptr || new_value == nullptr)
    return fail(ec::invalid_argument, "replace takes the old and the new text");
  TROUPE_TRY(const text old, in.to_text(*old_value));
  TROUPE_TRY(const text with, in.to_text(*new_value));
  TROUPE_TRY(const std::int64_t count, optional_integer(args, 2, "count", -1));
  TROUPE_CHECK(in.spend_bytes(of.size()));
  TROUPE_CHECK(in.spend(count_parts(of.bytes(), old.bytes())));
  auto made = replace(of, old.bytes(), with, count, in.limits().output_bytes);
  if (!made) return fail(ec::invalid_argument, "the string is too long");
  return in.make_string(std::move(*made));
}

result<value> indented(interpreter& in, const value& self, const arguments& args) {
  if (self.string() == nullptr)
    return fail(ec::invalid_argument,
                "indent takes a string, not '" + std::string(self.type_name()) + "'");
  const text& of = *self.string();
  std::string indention(4, ' ');
  if (const value* width = args.get(0, "width")) {
    if (width->string()) {
      indention = width->string()->bytes();
    } else if (const auto count = width->as_integer()) {
      indention.assign(static_cast<std::size_t>(std::clamp<std::int64_t>(*count, 0, 1024)), ' ');
    }
  }
  const value *first = args.get(1, "first"), *blank = args.get(2, "blank");
  auto lines = split_lines(of, false);
  // As if a newline were added: an empty text has one line, and a text that ends in a newline one more.
  if (of.empty() || of.bytes().ends_with('\n')) lines.emplace_back();
  text made;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) made.append("\n", origin::source);
    const bool wanted = i == 0 ? first != nullptr && first->truthy()
                               : !lines[i].empty() || (blank != nullptr && blank->truthy());
    TROUPE_CHECK(in.spend(1 + indention.size() / 64));
    if (wanted) made.append(indention, origin::source);
    made.append(lines[i]);
  }
  return in.make_string(std::move(made));
}

// &, <, >, " and ' as HTML entities.
result<value> escaped(interpreter& in, const value& self, const arguments&) {
  TROUPE_TRY(const text of, in.to_text(self));
  text made;
  for (std::size_t i = 0; i < of.size(); ++i) {
    const char c = of.bytes()[i];
    const std::string_view entity = c == '&'    ? "&amp;"
                                    : c == '<'  ? "&lt;"
                                    : c == '>'  ? "&gt;"
                                    : c == '"'  ? "&#34;"
                                    : c == '\'' ? "&#39;"
                                                : "";
    if (entity.empty()) {
      made.append_slice(of, i, i + 1);
    } else {
      made.append(entity, of.slice(i, i + 1).runs()[0].from);
    }
  }
  return in.make_string(std::move(made));
}

result<value> printed(interpreter& in, const value& self, const arguments&) {
  TROUPE_TRY(text of, in.to_text(self));
  return in.make_string(std::move(of));
}

result<value> texts(interpreter& in, std::vector<text> parts) {
  std::vector<value> items;
  for (text& part : parts) {
    TROUPE_TRY(value one, in.make_string(std::move(part)));
    items.push_back(std::move(one));
  }
  return in.make_list(std::move(items));
}

template <bool from_right>
result<value> split_method(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const text* separator, optional_string(args, 0, "sep"));
  TROUPE_TRY(const std::int64_t max, optional_integer(args, 1, "maxsplit", -1));
  if (separator != nullptr && separator->empty())
    return fail(ec::invalid_argument, "empty separator");
  TROUPE_CHECK(in.spend_bytes(self.string()->size()));
  if (from_right && separator != nullptr)
    return texts(in, split_from_right(*self.string(), separator->bytes(), max));
  if (from_right && max >= 0)
    return fail(ec::invalid_argument, "rsplit with maxsplit needs a separator");
  return texts(in, split(*self.string(),
                         separator != nullptr ? std::optional<std::string_view>(separator->bytes())
                                              : std::nullopt,
                         max));
}

result<value> split_lines_method(interpreter& in, const value& self, const arguments& args) {
  const value* keep = args.get(0, "keepends");
  return texts(in, split_lines(*self.string(), keep != nullptr && keep->truthy()));
}

template <bool at_end>
result<value> starts_or_ends(interpreter& in, const value& self, const arguments& args) {
  const value* given = args.get(0, "prefix");
  if (given == nullptr) return fail(ec::invalid_argument, "an argument is missing");
  std::vector<value> parts{*given};
  if (given->as_list()) parts = given->as_list()->items;
  TROUPE_CHECK(in.spend(parts.size()));
  for (const value& part : parts) {
    if (part.string() == nullptr)
      return fail(ec::invalid_argument,
                  "expected a string, not '" + std::string(part.type_name()) + "'");
    const std::string &of = self.string()->bytes(), &what = part.string()->bytes();
    if (at_end ? of.ends_with(what) : of.starts_with(what)) return value(true);
  }
  return value(false);
}

template <bool at_end>
result<value> without_affix(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const text* affix, needed_string(args, 0, "prefix"));
  const text& of = *self.string();
  const std::size_t length = affix->size();
  if (length == 0 ||
      !(at_end ? of.bytes().ends_with(affix->bytes()) : of.bytes().starts_with(affix->bytes())))
    return self;
  return in.make_string(at_end ? of.slice(0, of.size() - length) : of.slice(length, of.size()));
}

// Index in characters, or -1.
template <bool from_right>
result<value> find_method_of_text(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const text* what, needed_string(args, 0, "sub"));
  const std::string& of = self.string()->bytes();
  TROUPE_CHECK(in.spend_bytes(of.size()));
  const std::size_t found = from_right ? of.rfind(what->bytes()) : of.find(what->bytes());
  if (found == of.npos) return value(std::int64_t{-1});
  return value::number(count_code_points(std::string_view(of).substr(0, found)));
}

result<value> count_method(interpreter& in, const value& self, const arguments& args) {
  TROUPE_TRY(const text* what, needed_string(args, 0, "sub"));
  const std::string& of = self.string()->bytes();
  TROUPE_CHECK(in.spend_bytes(of.size()));
  return value::number(count_parts(of, what->bytes()));
}

result<value> join_method(interpreter& in, const value& self, const arguments& args) {
  const value* given = args.get(0, "iterable");
  TROUPE_TRY(const auto items, in.iterate(given != nullptr ? *given : value()));
  text made;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].string() == nullptr)
      return fail(ec::invalid_argument, "join: item " + std::to_string(i) + " is not a string");
    if (i > 0) made.append(*self.string());
    made.append(*items[i].string());
    TROUPE_CHECK(in.spend_bytes(self.string()->size() + items[i].string()->size()));
    if (made.size() > in.limits().output_bytes)
      return fail(ec::invalid_argument, "the string is too long");
  }
  return in.make_string(std::move(made));
}

template <bool (*holds)(char)>
result<value> every_character(interpreter& in, const value& self, const arguments&) {
  TROUPE_CHECK(in.spend_bytes(self.string()->size()));
  return value(!self.string()->empty() && std::ranges::all_of(self.string()->bytes(), holds));
}
bool digit(char c) {
  return c >= '0' && c <= '9';
}
bool letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<signed char>(c) < 0;
}
bool letter_or_digit(char c) {
  return letter(c) || digit(c);
}
bool space(char c) {
  return is_python_space(static_cast<unsigned char>(c)) && static_cast<signed char>(c) >= 0;
}

template <bool upper_case>
result<value> has_case(interpreter& in, const value& self, const arguments&) {
  TROUPE_CHECK(in.spend_bytes(self.string()->size()));
  return value(is_all_case(*self.string(), upper_case));
}

}  // namespace

std::span<const builtin> text_filters() {
  static const std::vector<builtin> table = {
      {"upper", changed<upper>},
      {"lower", changed<lower>},
      {"capitalize", changed<capitalize>},
      {"title", changed<title_words>},
      {"trim", stripped<side::both>, {"chars"}},
      {"replace", replaced, {"old", "new", "count"}},
      {"indent", indented, {"width", "first", "blank"}},
      {"escape", escaped},
      {"e", escaped},
      {"safe", printed},
      {"string", printed},
  };
  return table;
}

std::span<const builtin> text_methods() {
  static const std::vector<builtin> table = {
      {"upper", changed<upper>},
      {"lower", changed<lower>},
      {"capitalize", changed<capitalize>},
      {"title", changed<title>},
      {"strip", stripped<side::both>, {"chars"}},
      {"lstrip", stripped<side::left>, {"chars"}},
      {"rstrip", stripped<side::right>, {"chars"}},
      {"replace", replaced, {"old", "new", "count"}},
      {"split", split_method<false>, {"sep", "maxsplit"}},
      {"rsplit", split_method<true>, {"sep", "maxsplit"}},
      {"splitlines", split_lines_method, {"keepends"}},
      {"startswith", starts_or_ends<false>, {"prefix"}},
      {"endswith", starts_or_ends<true>, {"prefix"}},
      {"removeprefix", without_affix<false>, {"prefix"}},
      {"removesuffix", without_affix<true>, {"prefix"}},
      {"find", find_method_of_text<false>, {"sub"}},
      {"rfind", find_method_of_text<true>, {"sub"}},
      {"count", count_method, {"sub"}},
      {"join", join_method, {"iterable"}},
      {"isdigit", every_character<digit>},
      {"isalpha", every_character<letter>},
      {"isalnum", every_character<letter_or_digit>},
      {"isspace", every_character<space>},
      {"isupper", has_case<true>},
      {"islower", has_case<false>},
  };
  return table;
}

}  // namespace troupe::model::jinja
