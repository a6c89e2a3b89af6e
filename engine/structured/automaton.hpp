// Which bytes may come next: a grammar's stacks, followed byte by byte.
//
// A state is the set of stacks that the text so far leads to. Stacks are linked nodes, each made once, so equal states are
// one number, and what a byte leads to is found once and remembered: after a few answers a step is a look into a table.
//
// Whoever asks pays for what is found (work_budget). Where that does not suffice `dead` is the answer, which the budget tells
// to be none; only that is remembered which is certain, so nobody else notices. From max_bytes on full() tells that a new
// automaton should take this one's place: answers move to it with the one state that they are in, so they may be of any
// length.
//
// Owner and thread: one engine.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/structured/grammar.hpp"
#include "engine/structured/key_table.hpp"
#include "engine/structured/work_budget.hpp"

namespace troupe::engine::structured {

class automaton {
 public:
  using state = std::int32_t;
  static constexpr state dead = -1;

  static constexpr std::size_t usual_bytes = std::size_t{16} << 20;
  explicit automaton(grammar g, std::size_t max_bytes = usual_bytes)
      : automaton(std::make_shared<const grammar>(std::move(g)), max_bytes) {}
  explicit automaton(std::shared_ptr<const grammar> g, std::size_t max_bytes = usual_bytes)
      : grammar_(std::move(g)), max_bytes_(max_bytes) {}

  state start(work_budget& work);
  state next(state from, std::uint8_t byte, work_budget& work) {
    if (from == dead) return dead;
    const state known = steps_[first_step(from) + grammar_->class_of[byte]];
    return known != unknown ? known : find_next(from, byte, work);
  }
  // The state of this automaton that is `s` of another one of an equal grammar.
  state take(const automaton& other, state s, work_budget& work);
  // The text may end here; nothing else is possible here.
  bool accepts(state s) const { return s != dead && stacks_of(s).front() == none; }
  bool only_ends(state s) const { return accepts(s) && stacks_of(s).size() == 1; }
  std::size_t bytes() const { return bytes_; }
  std::size_t max_bytes() const { return max_bytes_; }
  bool full() const { return bytes_ >= max_bytes_; }
  const std::shared_ptr<const grammar>& rules() const { return grammar_; }

 private:
  using node = std::int32_t;
  static constexpr node none = -1;  // the empty stack
  static constexpr state unknown = -2;
  struct stack_node {
    std::uint32_t at;  // the symbol to match next
    node below;        // what follows when its alternative ends
  };

  std::size_t first_step(state s) const {
    return static_cast<std::size_t>(s) * grammar_->first_of_class.size();
  }
  // Sorted, `none` first.
  std::span<const node> stacks_of(state s) const {
    const auto i = static_cast<std::size_t>(s);
    const std::size_t begin = i == 0 ? 0 : stacks_end_[i - 1];
    return std::span(stacks_).subspan(begin, stacks_end_[i] - begin);
  }
  node make_node(std::uint32_t at, node below);
  node take_node(const automaton& other, node n, key_table& known, work_budget& work);
  void expand(std::uint32_t at, node below, std::vector<node>& out, work_budget& work);
  state intern(std::vector<node>& stacks);
  state find_next(state from, std::uint8_t byte, work_budget& work);

  const std::shared_ptr<const grammar> grammar_;
  const std::size_t max_bytes_;
  std::size_t bytes_ = 0;
  std::vector<stack_node> nodes_;
  key_table node_ids_;
  // Of each state; in few pieces of memory, so that letting go of them all is quick.
  std::vector<node> stacks_;
  std::vector<std::size_t> stacks_end_;
  std::vector<state> steps_;                          // [states][classes of bytes]
  key_table state_ids_;                               // by their stacks' hash
  std::vector<std::pair<std::uint32_t, node>> todo_;  // scratch of expand
  key_table visited_;
  state start_ = unknown;
};

}  // namespace troupe::engine::structured
