#include "engine/suffix_automaton.hpp"

#include <utility>

namespace troupe::engine {
namespace {

std::size_t hash(std::uint32_t from, token_id t) {
  std::uint64_t x = (std::uint64_t{from} << 32 | t) * 0x9E3779B97F4A7C15ull;
  return static_cast<std::size_t>(x ^ (x >> 29));
}

}  // namespace

suffix_automaton::suffix_automaton() : states_(1), slots_(64, none) {}

std::size_t suffix_automaton::bytes() const {
  return states_.capacity() * sizeof(state) + edges_.capacity() * sizeof(edge) +
         slots_.capacity() * sizeof(std::uint32_t);
}

std::uint32_t suffix_automaton::add_state(const state& s) {
  states_.push_back(s);
  return static_cast<std::uint32_t>(states_.size() - 1);
}

std::uint32_t suffix_automaton::find(std::uint32_t from, token_id t) const {
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = hash(from, t) & mask; slots_[i] != none; i = (i + 1) & mask) {
    const edge& e = edges_[slots_[i]];
    if (e.from == from && e.token == t) return slots_[i];
  }
  return none;
}

void suffix_automaton::insert(std::uint32_t e) {
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = hash(edges_[e].from, edges_[e].token) & mask;
  while (slots_[i] != none) i = (i + 1) & mask;
  slots_[i] = e;
}

void suffix_automaton::add_edge(std::uint32_t from, token_id t, std::uint32_t to) {
  const auto e = static_cast<std::uint32_t>(edges_.size());
  edges_.push_back({from, t, to, states_[from].first_edge});
  states_[from].first_edge = e;
  if (edges_.size() * 2 <= slots_.size()) return insert(e);
  slots_.assign(slots_.size() * 2, none);
  for (std::uint32_t i = 0; i <= e; ++i) insert(i);
}

// `whole` stands for longer texts than its edge from `parent` spells: the shorter ones get a state of their own.
std::uint32_t suffix_automaton::split(std::uint32_t parent, token_id t, std::uint32_t whole) {
  state shorter = states_[whole];
  shorter.length = states_[parent].length + 1;
  shorter.first_edge = none;
  const std::uint32_t copy = add_state(shorter);
  for (std::uint32_t e = states_[whole].first_edge; e != none; e = edges_[e].next)
    add_edge(copy, edges_[e].token, edges_[e].to);
  states_[whole].link = copy;
  for (std::uint32_t p = parent; p != none; p = states_[p].link) {
    const std::uint32_t e = find(p, t);
    if (edges_[e].to != whole) break;
    edges_[e].to = copy;
  }
  return copy;
}

void suffix_automaton::append(token_id t) {
  const std::uint32_t position = size_++;
  const std::uint32_t here = add_state({size_, 0, position, none});
  std::uint32_t p = last_, e = none;
  for (; p != none; p = states_[p].link) {
    e = find(p, t);
    if (e != none) break;
    add_edge(p, t, here);
  }
  if (p != none) {
    const std::uint32_t target = edges_[e].to;
    states_[here].link =
        states_[p].length + 1 == states_[target].length ? target : split(p, t, target);
  }
  last_ = here;
  // The longest suffix that is not the text itself has been here before.
  const std::uint32_t before = states_[here].link;
  match_ = {states_[before].length, states_[before].recent + 1};
  std::uint32_t s = before, known = match_.next;
  num_others_ = 0;
  for (int i = 0; i < noted_suffixes && s != 0; ++i, s = states_[s].link) {
    const std::uint32_t next = std::exchange(states_[s].recent, position) + 1;
    if (next == known || num_others_ == others_.size()) continue;
    others_[num_others_++] = {states_[s].length, next};
    known = next;
  }
}

}  // namespace troupe::engine
