#include "engine/structured/automaton.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include "base/hash.hpp"

namespace troupe::engine::structured {
namespace {

// For each byte that leads to something new; a stack that is only looked at costs an eighth of a step.
constexpr std::size_t work_per_byte = 8;
// What remembering them takes besides their stacks and steps, tables included.
constexpr std::size_t node_overhead = 48, state_overhead = 128;
static_assert(work_per_byte * work_budget::bytes_per_step >= state_overhead + 64);

// What one more state costs besides its stacks.
std::size_t work_per_state(std::size_t classes) {
  return work_per_byte + classes * sizeof(automaton::state) / work_budget::bytes_per_step;
}

std::uint64_t key_of(std::uint32_t at, std::int32_t below) {
  return (std::uint64_t{at} << 32) | static_cast<std::uint32_t>(below);
}

}  // namespace

automaton::state automaton::start(work_budget& work) {
  if (start_ != unknown) return start_;
  visited_.clear();
  std::vector<node> stacks;
  for (const std::uint32_t first : grammar_->rules[grammar_->root])
    expand(first, none, stacks, work);
  if (!work.spend(work_per_state(grammar_->first_of_class.size()))) return dead;
  return start_ = intern(stacks);
}

automaton::node automaton::make_node(std::uint32_t at, node below) {
  static_assert(sizeof(stack_node) + node_overhead <= work_budget::bytes_per_step);
  const auto [found, is_new] =
      node_ids_.insert(key_of(at, below), static_cast<node>(nodes_.size()));
  if (is_new) {
    nodes_.push_back({at, below});
    bytes_ += sizeof(stack_node) + node_overhead;
  }
  return found;
}

// The stacks with a byte to match on top that (at, below) leads to. visited_ holds what was expanded for this state.
void automaton::expand(std::uint32_t first, node under, std::vector<node>& out, work_budget& work) {
  todo_.emplace_back(first, under);
  while (!todo_.empty()) {
    // What may be empty, twice in a row, again and again, leads to more stacks than anybody could count.
    if (!work.spend(1)) return todo_.clear();
    auto [at, below] = todo_.back();
    todo_.pop_back();
    if (!visited_.insert(key_of(at, below), 0).second) continue;
    const grammar::symbol symbol = grammar_->symbols[at];
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
      if (grammar_->symbols[at + 1].is != grammar::kind::end) below = make_node(at + 1, below);
      for (const std::uint32_t alternative : grammar_->rules[symbol.index])
        todo_.emplace_back(alternative, below);
    }
  }
}

automaton::state automaton::intern(std::vector<node>& stacks) {
  if (stacks.empty()) return dead;
  std::sort(stacks.begin(), stacks.end());
  stacks.erase(std::unique(stacks.begin(), stacks.end()), stacks.end());
  const auto id = static_cast<state>(stacks_end_.size());
  for (std::uint64_t seed = 0;; ++seed) {  // the next one where others have the same hash
    const auto [found, is_new] =
        state_ids_.insert(hash64(std::as_bytes(std::span(stacks)), seed), id);
    if (is_new) break;
    if (std::ranges::equal(stacks_of(found), stacks)) return found;
  }
  const std::size_t classes = grammar_->first_of_class.size();
  bytes_ += stacks.size() * sizeof(node) + classes * sizeof(state) + state_overhead;
  stacks_.insert(stacks_.end(), stacks.begin(), stacks.end());
  stacks_end_.push_back(stacks_.size());
  steps_.resize(steps_.size() + classes, unknown);
  return id;
}

automaton::node automaton::take_node(const automaton& other, node n, key_table& known,
                                     work_budget& work) {
  std::vector<node> path;  // from the top of the stack down to what is known
  node taken = none;
  while (n != none) {
    if (const auto found = known.find(static_cast<std::uint64_t>(n))) {
      taken = *found;
      break;
    }
    if (!work.spend(1)) return none;
    path.push_back(n);
    n = other.nodes_[static_cast<std::size_t>(n)].below;
  }
  for (; !path.empty(); path.pop_back()) {
    taken = make_node(other.nodes_[static_cast<std::size_t>(path.back())].at, taken);
    known.insert(static_cast<std::uint64_t>(path.back()), taken);
  }
  return taken;
}

automaton::state automaton::take(const automaton& other, state s, work_budget& work) {
  if (s == dead) return dead;
  key_table known;
  std::vector<node> stacks;
  for (const node n : other.stacks_of(s)) {
    if (!work.spend(1)) return dead;
    stacks.push_back(take_node(other, n, known, work));
  }
  if (!work.spend(work_per_state(grammar_->first_of_class.size()))) return dead;
  return intern(stacks);
}

automaton::state automaton::find_next(state from, std::uint8_t byte, work_budget& work) {
  const std::span<const node> stacks = stacks_of(from);
  const std::vector<std::uint8_t>& classes = grammar_->first_of_class;
  if (!work.spend(work_per_state(classes.size()) + stacks.size() / 8)) return dead;
  visited_.clear();
  std::vector<node> reached;
  byte_set alike;  // bytes that lead to the same
  alike.set();
  for (const node n : stacks) {
    if (n == none) continue;
    const auto [at, below] = nodes_[static_cast<std::size_t>(n)];
    const byte_set& set = grammar_->sets[grammar_->symbols[at].index];
    alike &= set[byte] ? set : ~set;
    if (set[byte]) expand(at + 1, below, reached, work);
  }
  if (work.exceeded()) return dead;  // and nothing is remembered that may be wrong
  const state to = intern(reached);
  for (std::size_t c = 0; c < classes.size(); ++c)
    if (alike[classes[c]]) steps_[first_step(from) + c] = to;
  return to;
}

}  // namespace troupe::engine::structured
