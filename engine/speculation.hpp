// What an engine is told about speculative decoding and what it tells. Plain values.
#pragma once

#include <cstdint>

namespace troupe::engine {

struct speculation_options {
  bool enabled = true;
  bool from_text = true;         // n-gram guesses; off: only what is offered
  std::uint32_t max_tokens = 8;  // of one sequence in one pass; 0: no speculation
  bool always = false;           // regardless of cost: for tests and measurements
};

struct speculation_stats {
  std::uint64_t drafted = 0, accepted = 0;  // tokens
  // Decodes in passes: with drafts, with guesses that were not worth their rows, without a guess.
  std::uint64_t speculated = 0, declined = 0, unguessed = 0;
};

}  // namespace troupe::engine
