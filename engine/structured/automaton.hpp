// Which bytes may come next: a grammar's stacks, followed byte by byte.
//
// A state is the set of stacks that the text so far leads to. Stacks are linked nodes, each made once, so equal states are
// one number, and what a byte leads to is found once and remembered: after a few answers a step is a look into a table.
// What is remembered is bounded: from max_bytes on full() tells that a new automaton should take this one's place, at twice as
// much `dead` is the answer where a new state would be needed, and overflowed() tells that it may be a wrong one. So it is
// where a single state would have more stacks than can be followed, or where the bytes asked for lead to more work than was
// granted: an engine follows the forms of all its requests on one thread.
//
// Owner and thread: one engine.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/structured/grammar.hpp"
#include "engine/structured/key_table.hpp"

namespace troupe::engine::structured {

class automaton {
 public:
  using state = std::int32_t;
  static constexpr state dead = -1;

  static constexpr std::size_t usual_bytes = std::size_t{16} << 20;
  explicit automaton(grammar g, std::size_t max_bytes = usual_bytes);

  state start() const { return start_; }
  state next(state from, std::uint8_t byte) {
    if (from == dead) return dead;
    const state known = (*steps_[static_cast<std::size_t>(from)])[byte];
    return known != unknown ? known : find_next(from, byte);
  }
  // The text may end here; nothing else is possible here.
  bool accepts(state s) const {
    return s != dead && stacks_[static_cast<std::size_t>(s)].front() == none;
  }
  bool only_ends(state s) const {
    return accepts(s) && stacks_[static_cast<std::size_t>(s)].size() == 1;
  }
  // Steps of work, about 0.1 us each: no more in one go, so that nobody's tokens wait longer for another's form; then so many
  // for each token and each mask. The most that a form within the bounds of its size was seen to take is 93 000 for one mask
  // (a class of 20 000 characters; 18 000 strings take 40 000).
  static constexpr std::size_t work_at_once = std::size_t{1} << 18;
  static constexpr std::size_t work_per_token = std::size_t{1} << 16;
  // What following one token more, or a mask of tokens, may cost is added to what may be spent. What is not spent does not
  // add up beyond work_at_once.
  void grant_token();
  std::size_t work() const { return work_; }  // so far
  std::size_t bytes() const { return bytes_; }
  bool full() const { return overflowed_ || bytes_ >= max_bytes_; }
  bool overflowed() const { return overflowed_; }

 private:
  using node = std::int32_t;
  static constexpr node none = -1;  // the empty stack
  static constexpr state unknown = -2;
  struct stack_node {
    std::uint32_t at;  // the symbol to match next
    node below;        // what follows when its alternative ends
  };

  node make_node(std::uint32_t at, node below);
  void expand(std::uint32_t at, node below, std::vector<node>& out);
  state intern(std::vector<node>& stacks);
  state find_next(state from, std::uint8_t byte);

  const grammar grammar_;
  const std::size_t max_bytes_;
  std::size_t bytes_ = 0;
  std::size_t work_ = 0, most_work_;
  bool overflowed_ = false;
  std::vector<stack_node> nodes_;
  key_table node_ids_;
  std::vector<std::vector<node>> stacks_;  // of each state: sorted, `none` first
  key_table state_ids_;                    // by their stacks' hash
  std::vector<std::unique_ptr<std::array<state, 256>>> steps_;
  std::vector<std::pair<std::uint32_t, node>> todo_;  // scratch of expand
  key_table visited_;
  state start_ = dead;
};

}  // namespace troupe::engine::structured
