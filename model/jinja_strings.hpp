// Python's string methods on texts that know their origin. Letters change case by Unicode's simple mappings.
// Pure functions, any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "model/jinja_text.hpp"

namespace troupe::model::jinja {

enum class side : std::uint8_t { left, right, both };

bool is_python_space(std::uint32_t code_point);

// Without the characters of `chars`, or without whitespace, at the given ends.
text strip(const text& of, std::optional<std::string_view> chars, side where);
// At `separator`, or at runs of whitespace; at most `max` cuts unless negative.
std::vector<text> split(const text& of, std::optional<std::string_view> separator,
                        std::int64_t max);
std::vector<text> split_from_right(const text& of, std::string_view separator, std::int64_t max);
std::vector<text> split_lines(const text& of, bool keep_ends);
// REQUIRES: an empty `old` only with max_bytes; nullopt when the result is longer than max_bytes.
std::optional<text> replace(const text& of, std::string_view old, const text& with,
                            std::int64_t max_count, std::size_t max_bytes);
text upper(const text& of);
text lower(const text& of);
// There are letters with case, and all are of the one.
bool is_all_case(const text& of, bool upper_case);
text capitalize(const text& of);
text title(const text& of);
// jinja2's filter: a word starts after a space, a hyphen or an opening bracket.
text title_words(const text& of);

}  // namespace troupe::model::jinja
