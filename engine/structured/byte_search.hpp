// The search for one string as an automaton over bytes (Knuth, Morris, Pratt), and as a right-linear rule: any text that
// does not hold the string. Internal to this folder.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "engine/structured/grammar.hpp"

namespace troupe::engine::structured {

class byte_search {
 public:
  explicit byte_search(std::string_view wanted);

  std::size_t states() const { return next_.size(); }  // the one behind the last: it was found
  std::size_t next(std::size_t s, std::uint8_t b) const { return next_[s][b]; }

  // From state s on: one byte, none of `without`, and what the search's next state stands for.
  void go_on(grammar_builder& to, grammar_builder::rule from, std::size_t s,
             const byte_set& without, const std::vector<grammar_builder::rule>& states) const;
  // Text up to the string's first end, then `then`.
  grammar_builder::rule until(grammar_builder& to, grammar_builder::rule then,
                              const byte_set& without) const;

 private:
  std::vector<std::array<std::size_t, 256>> next_;
};

}  // namespace troupe::engine::structured
