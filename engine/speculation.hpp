// What an engine is told about speculative decoding and what it tells. Plain values.
#pragma once

#include <cstdint>

namespace troupe::engine {

struct speculation_options {
  bool enabled = true;
  bool from_text = true;         // n-gram guesses
  bool from_draft = true;        // guesses that a draft model offers
  std::uint32_t max_tokens = 8;  // of one sequence in one pass; 0: no speculation
  bool try_draft = true;         // off: a draft model guesses even where decoding is not faster
  bool always = false;  // each guess is checked, however costly; a draft's, however unlikely
  // Memory for recent answers, of which later requests of the same tenant and salt guess; 0: none.
  std::uint64_t history_bytes = 0;
  bool branches = true;  // where guesses differ, more than one is checked (if blocks can be copied)
};
// Of all sequences of a pass: each is one more group of rows for the device.
inline constexpr std::uint32_t most_branches = 32;

struct speculation_stats {
  std::uint64_t drafted = 0, accepted = 0;  // tokens
  // Decodes in passes: with drafts, with guesses that were not worth their rows, without a guess.
  std::uint64_t speculated = 0, declined = 0, unguessed = 0;
  // Of the first two, those that a draft model offered, and those from answers before; the rest
  // comes from the text itself.
  std::uint64_t draft_drafted = 0, draft_accepted = 0;
  std::uint64_t history_drafted = 0, history_accepted = 0;
  std::uint64_t branches = 0, branches_won = 0;  // second guesses that were checked
  bool draft_proven = false;                     // it was found to be faster with one
  bool draft_wanted = false;                     // a draft model should guess now
  std::uint64_t draft_on = 0, draft_off = 0;     // how often that changed
};

}  // namespace troupe::engine
