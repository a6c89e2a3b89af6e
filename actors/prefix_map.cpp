#include "actors/prefix_map.hpp"

#include <bit>

namespace troupe::actors {
namespace {

constexpr auto expected_for = std::chrono::seconds(10);
constexpr std::size_t most_expected = 1 << 17;  // keys of all expectations

}  // namespace

// -- nodes ---------------------------------------------------------------------------------------------------------------

void prefix_map::add_node(std::uint64_t start) {
  if (start == 0 || numbers_.contains(start)) return;
  if (free_numbers_.empty()) {
    if (nodes_.size() >= most_nodes) return;
    free_numbers_.push_back(static_cast<std::uint32_t>(nodes_.size()));
    nodes_.emplace_back();
  }
  const std::uint32_t number = free_numbers_.back();
  free_numbers_.pop_back();
  numbers_[start] = number;
  nodes_[number] = {start, 0, 0, 0};
}

void prefix_map::remove_node(std::uint64_t start) {
  const auto n = numbers_.find(start);
  if (n == numbers_.end()) return;
  const std::uint32_t number = n->second;
  clear_node(number);
  for (auto& e : expectations_)
    if (e.number == number) e.number.reset();
  nodes_[number] = {};
  free_numbers_.push_back(number);
  numbers_.erase(n);
}

prefix_map::node* prefix_map::find(std::uint64_t start) {
  const auto n = numbers_.find(start);
  return n == numbers_.end() ? nullptr : &nodes_[n->second];
}

prefix_events_request prefix_map::ask(std::uint64_t start) const {
  const auto n = numbers_.find(start);
  if (n == numbers_.end()) return {};
  return {nodes_[n->second].next, nodes_[n->second].since};
}

bool prefix_map::apply(const prefix_events& m) {
  node* n = find(m.start);
  if (n == nullptr) return false;
  if (!m.reset && (n->next == 0 || m.first != n->next)) return false;  // an old answer
  const std::uint32_t number = numbers_.at(m.start);
  if (m.reset) {
    clear_node(number);
    ++resets_;
  }
  n->next = m.next;
  n->since = m.since;
  for (const auto change : m.changes) {
    const std::uint64_t key = change & ~std::uint64_t{1};
    if ((change & 1) != 0) {
      set(key, {number, false});
    } else {
      clear(key, {number, false});
      clear(key, {number, true});
    }
  }
  events_ += m.changes.size();
  return m.more && m.next > m.first;
}

// -- what was sent -------------------------------------------------------------------------------------------------------

void prefix_map::expect(std::uint64_t start, std::span<const std::uint64_t> keys, time_point now) {
  const node* n = find(start);
  if (n == nullptr || n->next == 0 || keys.empty()) return;
  const std::uint32_t number = numbers_.at(start);
  for (const auto key : keys) set(key, {number, true});
  expectations_.push_back({now + expected_for, number, {keys.begin(), keys.end()}});
  expected_keys_ += keys.size();
  expire(now);
}

void prefix_map::expire(time_point now) {
  while (!expectations_.empty() &&
         (expectations_.front().until <= now || expected_keys_ > most_expected)) {
    const auto e = std::move(expectations_.front());
    expectations_.pop_front();
    expected_keys_ -= e.keys.size();
    if (!e.number) continue;
    for (const auto key : e.keys) clear(key, {*e.number, true});
  }
}

// -- questions -----------------------------------------------------------------------------------------------------------

std::vector<std::pair<std::uint64_t, std::uint32_t>> prefix_map::depths(
    std::span<const std::uint64_t> keys) {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> found;
  const auto words = static_cast<std::uint32_t>((nodes_.size() + 63) / 64);
  std::vector<std::uint64_t> alive(words, ~std::uint64_t{0});
  bool any = words > 0;
  for (std::uint32_t depth = 0; any; ++depth) {
    const auto e = depth < keys.size() ? table_.find(keys[depth]) : table_.end();
    if (e != table_.end()) e->second.used = true;
    any = false;
    for (std::uint32_t w = 0; w < words; ++w) {
      if (alive[w] == 0) continue;
      const std::uint64_t here = e == table_.end() ? 0 : e->second.holders.nodes_at(w);
      if (depth > 0)
        for (std::uint64_t ended = alive[w] & ~here; ended != 0; ended &= ended - 1)
          found.emplace_back(
              nodes_[w * 64u + static_cast<std::uint32_t>(std::countr_zero(ended))].start, depth);
      alive[w] &= here;
      any = any || alive[w] != 0;
    }
  }
  return found;
}

// -- the table -----------------------------------------------------------------------------------------------------------

void prefix_map::set(std::uint64_t key, mark m) {
  entry& e = at(key)->second;
  const std::size_t before = e.holders.heap_bytes();
  if (e.holders.insert(m, static_cast<std::uint32_t>(nodes_.size()))) ++nodes_[m.node].marks;
  bytes_ += e.holders.heap_bytes() - before;
}

bool prefix_map::unmark(entry& e, mark m) {
  const std::size_t before = e.holders.heap_bytes();
  if (e.holders.erase(m)) --nodes_[m.node].marks;
  bytes_ -= before - e.holders.heap_bytes();
  return e.holders.empty();
}

void prefix_map::clear(std::uint64_t key, mark m) {
  const auto e = table_.find(key);
  if (e != table_.end() && unmark(e->second, m)) erase(e);
}

void prefix_map::clear_node(std::uint32_t number) {
  for (auto e = table_.begin(); e != table_.end() && nodes_[number].marks > 0;) {
    unmark(e->second, {number, false});
    e = unmark(e->second, {number, true}) ? erase(e) : std::next(e);
  }
}

prefix_map::table::iterator prefix_map::at(std::uint64_t key) {
  if (const auto e = table_.find(key); e != table_.end()) return e;
  make_room();
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<std::uint32_t>(ring_.size()));
    ring_.push_back(no_key);
  }
  const auto e = table_.try_emplace(key).first;
  e->second.slot = free_slots_.back();
  ring_[free_slots_.back()] = key;
  free_slots_.pop_back();
  bytes_ += entry_bytes;
  return e;
}

prefix_map::table::iterator prefix_map::erase(table::iterator e) {
  e->second.holders.for_each([this](mark m) { --nodes_[m.node].marks; });
  bytes_ -= entry_bytes + e->second.holders.heap_bytes();
  ring_[e->second.slot] = no_key;
  free_slots_.push_back(e->second.slot);
  return table_.erase(e);
}

// For one more block. Ends: a round of the hand takes every mark away.
void prefix_map::make_room() {
  while (bytes_ + entry_bytes > budget_ && !table_.empty()) {
    const std::uint64_t key = ring_[hand_];
    hand_ = (hand_ + 1) % ring_.size();
    if (key == no_key) continue;
    const auto e = table_.find(key);
    if (!std::exchange(e->second.used, false)) erase(e);
  }
}

}  // namespace troupe::actors
