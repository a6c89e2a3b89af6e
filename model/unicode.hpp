// UTF-8 by the table of well-formed sequences (Unicode 15, table 3-7): surrogates, overlong forms
// and values above U+10FFFF are invalid. Pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace troupe::model {

// What the bytes at the start of `text` are.
struct utf8_prefix {
  std::size_t valid = 0;  // length of the well-formed sequence there, else 0
  std::size_t bad = 0;    // else: bytes that one U+FFFD replaces (maximal subpart), or
  std::size_t incomplete =
      0;  // else: all of `text` is the start of a sequence that may yet complete
};
// REQUIRES: !text.empty().
utf8_prefix utf8_prefix_of(std::string_view text);

// Length of the longest valid prefix.
std::size_t valid_utf8_length(std::string_view text);

// REQUIRES: code_point is a scalar value.
void append_utf8(std::string& out, std::uint32_t code_point);

// Code point of the sequence at the start of `text` and its length. An invalid byte counts as one
// character of value U+FFFD. REQUIRES: !text.empty().
struct code_point_at {
  std::uint32_t value = 0;
  std::size_t length = 1;
};
code_point_at first_code_point(std::string_view text);

// Characters (code points), where an invalid byte counts as one.
std::size_t count_code_points(std::string_view text);

inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

}  // namespace troupe::model
