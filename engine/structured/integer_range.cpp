#include "engine/structured/integer_range.hpp"

#include <algorithm>
#include <string>

namespace troupe::engine::structured {
namespace {

using rule = grammar_builder::rule;

rule digits(grammar_builder& to, char first, char last) {
  return to.one_of({{static_cast<char32_t>(first), static_cast<char32_t>(last)}});
}

// Numbers of as many digits as both have, from low to high.
rule same_length(grammar_builder& to, const std::string& low, const std::string& high) {
  if (low.empty()) return to.literal("");
  const std::string low_rest = low.substr(1), high_rest = high.substr(1);
  if (low[0] == high[0])
    return to.sequence({digits(to, low[0], low[0]), same_length(to, low_rest, high_rest)});
  const auto n = static_cast<std::uint32_t>(low_rest.size());
  const std::string zeros(n, '0'), nines(n, '9');
  char first = low[0], last = high[0];
  std::vector<rule> all;
  if (low_rest != zeros)
    all.push_back(to.sequence({digits(to, first, first), same_length(to, low_rest, nines)})),
        ++first;
  if (high_rest != nines)
    all.push_back(to.sequence({digits(to, last, last), same_length(to, zeros, high_rest)})), --last;
  if (first <= last)
    all.push_back(to.sequence({digits(to, first, last), to.repeat(digits(to, '0', '9'), n, n)}));
  return to.choice(all);
}

// 0 <= low <= high
rule without_sign(grammar_builder& to, std::int64_t low, std::int64_t high) {
  std::vector<rule> all;
  for (std::int64_t begin = low; begin <= high;) {
    const std::string text = std::to_string(begin);
    const std::int64_t end =
        std::min<std::int64_t>(high, std::stoll(std::string(text.size(), '9')));
    all.push_back(same_length(to, text, std::to_string(end)));
    begin = end + 1;
  }
  return to.choice(all);
}

}  // namespace

rule add_integer_range(grammar_builder& to, std::int64_t low, std::int64_t high) {
  std::vector<rule> all;
  if (high >= 0) all.push_back(without_sign(to, std::max<std::int64_t>(low, 0), high));
  if (low < 0)
    all.push_back(
        to.sequence({to.literal("-"), without_sign(to, std::max<std::int64_t>(-high, 1), -low)}));
  return to.choice(all);
}

}  // namespace troupe::engine::structured
