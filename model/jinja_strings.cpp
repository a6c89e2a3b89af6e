#include "model/jinja_strings.hpp"

#include <locale.h>
#include <cstring>
#include <cwctype>
#include <utility>

#include "model/unicode.hpp"

namespace troupe::model::jinja {
namespace {

// Unicode's simple mapping, one code point to one; ASCII only where the C library has no C.UTF-8.
std::uint32_t change_case(std::uint32_t c, bool to_upper) {
  if (c < 0x80) {
    if (to_upper) return c >= 'a' && c <= 'z' ? c - 32 : c;
    return c >= 'A' && c <= 'Z' ? c + 32 : c;
  }
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  if (locale == nullptr) return c;
  return to_upper ? towupper_l(static_cast<wint_t>(c), locale)
                  : towlower_l(static_cast<wint_t>(c), locale);
}

// Replaces each character, keeping its origin. Invalid bytes stay.
template <class F>
text recased(const text& of, F change) {
  text made;
  std::size_t at = 0;
  for (const text::run& run : of.runs()) {
    std::string part;
    while (at < run.end) {
      const std::string_view rest(of.bytes().data() + at, of.size() - at);
      const auto [value, length] = first_code_point(rest);
      const std::uint32_t to = change(value);
      if (to == value) {
        part += rest.substr(0, length);
      } else {
        append_utf8(part, to);
      }
      at += length;
    }
    made.append(part, run.from);
  }
  return made;
}

// Start of the character that ends at `end`.
std::size_t previous_character(std::string_view bytes, std::size_t end) {
  for (std::size_t length = 2; length <= 4 && length <= end; ++length)
    if (first_code_point(bytes.substr(end - length, length)).length == length) return end - length;
  return end - 1;
}

bool is_line_end(std::uint32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

bool is_python_space(std::uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

text strip(const text& of, std::optional<std::string_view> chars, side where) {
  const std::string_view bytes = of.bytes();
  const auto goes = [&](std::string_view character) {
    if (!chars) return is_python_space(first_code_point(character).value);
    for (std::string_view rest = *chars; !rest.empty();) {
      const std::size_t length = first_code_point(rest).length;
      if (rest.substr(0, length) == character) return true;
      rest.remove_prefix(length);
    }
    return false;
  };
  std::size_t begin = 0, end = bytes.size();
  while (where != side::right && begin < end) {
    const std::size_t length = first_code_point(bytes.substr(begin)).length;
    if (!goes(bytes.substr(begin, length))) break;
    begin += length;
  }
  while (where != side::left && begin < end) {
    const std::size_t start = previous_character(bytes, end);
    if (!goes(bytes.substr(start, end - start))) break;
    end = start;
  }
  return of.slice(begin, end);
}

std::vector<text> split(const text& of, std::optional<std::string_view> separator,
                        std::int64_t max) {
  const std::string_view bytes = of.bytes();
  std::vector<text> parts;
  const auto full = [&] { return max >= 0 && parts.size() >= static_cast<std::size_t>(max); };
  if (separator) {
    std::size_t begin = 0;
    for (std::size_t found; !full() && (found = bytes.find(*separator, begin)) != bytes.npos;) {
      parts.push_back(of.slice(begin, found));
      begin = found + separator->size();
    }
    parts.push_back(of.slice(begin, bytes.size()));
    return parts;
  }
  const auto space_at = [&](std::size_t at) {
    return is_python_space(first_code_point(bytes.substr(at)).value);
  };
  const auto step = [&](std::size_t at) { return first_code_point(bytes.substr(at)).length; };
  for (std::size_t at = 0;;) {
    while (at < bytes.size() && space_at(at)) at += step(at);
    if (at == bytes.size()) return parts;
    if (full()) {
      parts.push_back(of.slice(at, bytes.size()));
      parts.back() = max == 0 ? strip(parts.back(), std::nullopt, side::left) : parts.back();
      return parts;
    }
    const std::size_t begin = at;
    while (at < bytes.size() && !space_at(at)) at += step(at);
    parts.push_back(of.slice(begin, at));
  }
}

std::vector<text> split_from_right(const text& of, std::string_view separator, std::int64_t max) {
  const std::string_view bytes = of.bytes();
  std::vector<text> parts;
  std::size_t end = bytes.size();
  while ((max < 0 || parts.size() < static_cast<std::size_t>(max)) && end >= separator.size()) {
    const std::size_t found = bytes.substr(0, end).rfind(separator);
    if (found == bytes.npos) break;
    parts.insert(parts.begin(), of.slice(found + separator.size(), end));
    end = found;
  }
  parts.insert(parts.begin(), of.slice(0, end));
  return parts;
}

std::vector<text> split_lines(const text& of, bool keep_ends) {
  const std::string_view bytes = of.bytes();
  std::vector<text> lines;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    auto [value, length] = first_code_point(bytes.substr(at));
    if (is_line_end(value)) {
      if (bytes.substr(at).starts_with("\r\n")) length = 2;
      lines.push_back(of.slice(begin, keep_ends ? at + length : at));
      begin = at + length;
    }
    at += length;
  }
  if (begin < bytes.size()) lines.push_back(of.slice(begin, bytes.size()));
  return lines;
}

std::optional<text> replace(const text& of, std::string_view old, const text& with,
                            std::int64_t max_count, std::size_t max_bytes) {
  const std::string_view bytes = of.bytes();
  text made;
  std::size_t begin = 0;
  for (std::int64_t count = 0; max_count < 0 || count < max_count; ++count) {
    // An empty `old` is found before each character and at the end.
    std::size_t found = bytes.find(old, begin);
    if (old.empty() && count > 0) {
      if (begin == bytes.size()) break;
      found = begin + first_code_point(bytes.substr(begin)).length;
    }
    if (found == bytes.npos) break;
    made.append_slice(of, begin, found);
    made.append(with);
    if (made.size() > max_bytes) return std::nullopt;
    begin = found + old.size();
  }
  made.append_slice(of, begin, bytes.size());
  return made;
}

text upper(const text& of) {
  return recased(of, [](std::uint32_t c) { return change_case(c, true); });
}
text lower(const text& of) {
  return recased(of, [](std::uint32_t c) { return change_case(c, false); });
}

bool is_all_case(const text& of, bool upper_case) {
  bool any = false;
  for (std::string_view rest = of.bytes(); !rest.empty();) {
    const auto [value, length] = first_code_point(rest);
    if (change_case(value, upper_case) != value) return false;  // of the other case
    any = any || change_case(value, !upper_case) != value;
    rest.remove_prefix(length);
  }
  return any;
}

text capitalize(const text& of) {
  bool first = true;
  return recased(of, [&](std::uint32_t c) { return change_case(c, std::exchange(first, false)); });
}

text title(const text& of) {
  bool in_word = false;
  return recased(of, [&](std::uint32_t c) {
    const bool letter = change_case(c, true) != c || change_case(c, false) != c;
    return change_case(c, !std::exchange(in_word, letter));
  });
}

text title_words(const text& of) {
  bool starts = true;
  return recased(of, [&](std::uint32_t c) {
    const bool separates =
        is_python_space(c) || (c < 0x80 && c != 0 && std::strchr("-({[<", static_cast<int>(c)));
    return change_case(c, std::exchange(starts, separates));
  });
}

}  // namespace troupe::model::jinja
