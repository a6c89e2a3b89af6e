#include "engine/structured/automaton.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include "base/hash.hpp"

namespace troupe::engine::structured {
namespace {

constexpr std::size_t most_expanded = std::size_t{1} << 18;  // for one state
// For each byte that leads to something new; a stack that is only looked at costs an eighth of a step.
constexpr std::size_t work_per_byte = 8;

std::uint64_t key_of(std::uint32_t at, std::int32_t below) {
  return (std::uint64_t{at} << 32) | static_cast<std::uint32_t>(below);
}

}  // namespace

automaton::automaton(grammar g, std::size_t max_bytes)
    : grammar_(std::move(g)), max_bytes_(max_bytes), most_work_(work_at_once) {
  std::vector<node> stacks;
  for (const std::uint32_t first : grammar_.rules[grammar_.root]) expand(first, none, stacks);
  start_ = intern(stacks);
  most_work_ = work_ + work_at_once;
}

automaton::node automaton::make_node(std::uint32_t at, node below) {
  const auto [found, is_new] =
      node_ids_.insert(key_of(at, below), static_cast<node>(nodes_.size()));
  if (is_new) {
    nodes_.push_back({at, below});
    bytes_ += sizeof(stack_node) + 48;
  }
  return found;
}

// The stacks with a byte to match on top that (at, below) leads to. visited_ holds what was expanded for this state.
void automaton::expand(std::uint32_t first, node under, std::vector<node>& out) {
  todo_.emplace_back(first, under);
  while (!todo_.empty()) {
    // What may be empty, twice in a row, again and again, leads to more stacks than anybody could count.
    if (bytes_ >= 2 * max_bytes_ || visited_.size() >= most_expanded || ++work_ > most_work_) {
      overflowed_ = true;
      return todo_.clear();
    }
    auto [at, below] = todo_.back();
    todo_.pop_back();
    if (!visited_.insert(key_of(at, below), 0).second) continue;
    const grammar::symbol symbol = grammar_.symbols[at];
    if (symbol.is == grammar::kind::bytes) {
      out.push_back(make_node(at, below));
    } else if (symbol.is == grammar::kind::end) {
      if (below == none)
        out.push_back(none);
      else
        todo_.emplace_back(nodes_[static_cast<std::size_t>(below)].at,
                           nodes_[static_cast<std::size_t>(below)].below);
    } else {
      // At the end of an alternative nothing needs to be remembered, so repetitions do not pile up.
      if (grammar_.symbols[at + 1].is != grammar::kind::end) below = make_node(at + 1, below);
      for (const std::uint32_t alternative : grammar_.rules[symbol.index])
        todo_.emplace_back(alternative, below);
    }
  }
}

automaton::state automaton::intern(std::vector<node>& stacks) {
  if (stacks.empty() || bytes_ >= 2 * max_bytes_) {
    overflowed_ = overflowed_ || !stacks.empty();
    return dead;
  }
  std::sort(stacks.begin(), stacks.end());
  stacks.erase(std::unique(stacks.begin(), stacks.end()), stacks.end());
  const auto id = static_cast<state>(stacks_.size());
  for (std::uint64_t seed = 0;; ++seed) {  // the next one where others have the same hash
    const auto [found, is_new] =
        state_ids_.insert(hash64(std::as_bytes(std::span(stacks)), seed), id);
    if (is_new) break;
    if (stacks_[static_cast<std::size_t>(found)] == stacks) return found;
  }
  bytes_ += stacks.size() * sizeof(node) + 256 * sizeof(state) + 160;
  stacks_.push_back(stacks);
  steps_.push_back(std::make_unique<std::array<state, 256>>());
  steps_.back()->fill(unknown);
  return id;
}

void automaton::grant_token() {
  most_work_ = std::min(most_work_ + work_per_token, work_ + work_at_once);
}

automaton::state automaton::find_next(state from, std::uint8_t byte) {
  if (overflowed_) return dead;
  const std::vector<node>& stacks = stacks_[static_cast<std::size_t>(from)];
  work_ += work_per_byte + stacks.size() / 8;
  if (work_ > most_work_) {
    overflowed_ = true;
    return dead;
  }
  visited_.clear();
  std::vector<node> reached;
  byte_set alike;  // bytes that lead to the same
  alike.set();
  for (const node n : stacks) {
    if (n == none) continue;
    const auto [at, below] = nodes_[static_cast<std::size_t>(n)];
    const byte_set& set = grammar_.sets[grammar_.symbols[at].index];
    alike &= set[byte] ? set : ~set;
    if (set[byte]) expand(at + 1, below, reached);
  }
  const state to = intern(reached);
  auto& steps = *steps_[static_cast<std::size_t>(from)];
  for (std::size_t b = 0; b < steps.size(); ++b)
    if (alike[b]) steps[b] = to;
  return to;
}

}  // namespace troupe::engine::structured
