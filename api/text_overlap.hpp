// How much of a text's end may be the beginning of something that is looked for: it is withheld until more is there.
#pragma once

#include <algorithm>
#include <string_view>

namespace troupe::api {

// The longest end of `text` that `wanted` begins with, less than all of it.
inline std::size_t overlap(std::string_view text, std::string_view wanted) {
  std::size_t n = std::min(text.size(), wanted.size() - 1);
  while (n > 0 && !wanted.starts_with(text.substr(text.size() - n))) --n;
  return n;
}

}  // namespace troupe::api
