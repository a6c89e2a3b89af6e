// Finds, as a text grows, the longest end of it that occurred earlier, in constant amortized time a token: what followed
// there is the guess of what follows here (prompt lookup without a fixed n; Hu et al., "SAM Decoding", 2411.10666; the
// automaton: Blumer et al., "The smallest automaton recognizing the subwords of a text", 1985).
//
// Edges of all states lie in one hash table and one array, so that a token costs about 70 bytes and no allocation of its
// own. Owner and thread: one sequence of one engine.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.hpp"

namespace troupe::engine {

class suffix_automaton {
 public:
  suffix_automaton();
  void append(token_id t);

  // The longest end of the text that occurred before: its length, and the position behind its most recent occurrence
  // that is known. length 0: the last token is new.
  struct match {
    std::uint32_t length = 0;
    std::uint32_t next = 0;
  };
  const match& longest() const { return match_; }
  // Shorter ends of the text that occurred elsewhere, where something else may have followed; the longest first.
  std::span<const match> others() const { return {others_.data(), num_others_}; }
  std::uint32_t size() const { return size_; }  // tokens
  std::size_t bytes() const;

 private:
  static constexpr std::uint32_t none = 0xffffffff;
  // Occurrences are noted on so many states of the chain of suffixes: the long ones, which matter.
  static constexpr int noted_suffixes = 16;
  struct state {
    std::uint32_t length = 0, link = none;
    std::uint32_t recent = 0;  // where an occurrence ends
    std::uint32_t first_edge = none;
  };
  struct edge {
    std::uint32_t from = 0;
    token_id token = 0;
    std::uint32_t to = 0;
    std::uint32_t next = none;  // of the same state
  };

  std::uint32_t add_state(const state& s);
  std::uint32_t find(std::uint32_t from, token_id t) const;  // an edge, or none
  void add_edge(std::uint32_t from, token_id t, std::uint32_t to);
  void insert(std::uint32_t edge);
  std::uint32_t split(std::uint32_t parent, token_id t, std::uint32_t whole);

  std::vector<state> states_;
  std::vector<edge> edges_;
  std::vector<std::uint32_t> slots_;  // edges by (from, token), open addressing, at most half full
  std::uint32_t last_ = 0, size_ = 0;
  match match_;
  std::array<match, 4> others_{};
  std::size_t num_others_ = 0;
};

}  // namespace troupe::engine
