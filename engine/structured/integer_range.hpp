// The decimal numbers from `low` to `high`, without leading zeros. Internal to this folder.
#pragma once

#include "engine/structured/grammar.hpp"

namespace troupe::engine::structured {

// REQUIRES: low <= high, both of at most 18 digits.
grammar_builder::rule add_integer_range(grammar_builder& to, std::int64_t low, std::int64_t high);

}  // namespace troupe::engine::structured
