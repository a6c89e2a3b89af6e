#include "actors/prefix_map.hpp"

#include <bit>

namespace troupe::actors {
namespace {

constexpr auto expected_for = std::chrono::seconds(10);
constexpr std::size_t most_expected = 1 << 17;  // keys of all expectations

}  // namespace

void prefix_map::add_node(std::uint64_t start) {
  if (nodes_.contains(start) || free_bits_ == 0) return;
  const int bit = std::countr_zero(free_bits_);
  free_bits_ &= ~(std::uint64_t{1} << bit);
  nodes_[start] = {bit, 0, 0};
}

void prefix_map::remove_node(std::uint64_t start) {
  const auto n = nodes_.find(start);
  if (n == nodes_.end()) return;
  const std::uint64_t bit = std::uint64_t{1} << n->second.bit;
  clear_all(bit);
  for (auto& e : expectations_)
    if (e.bit == bit) e.bit = 0;
  free_bits_ |= bit;
  nodes_.erase(n);
}

prefix_events_request prefix_map::ask(std::uint64_t start) const {
  const auto n = nodes_.find(start);
  return n == nodes_.end() ? prefix_events_request{}
                           : prefix_events_request{n->second.next, n->second.since};
}

bool prefix_map::apply(const prefix_events& m) {
  const auto at_node = nodes_.find(m.start);
  if (at_node == nodes_.end()) return false;
  node& n = at_node->second;
  if (!m.reset && (n.next == 0 || m.first != n.next)) return false;  // an old answer
  const std::uint64_t bit = std::uint64_t{1} << n.bit;
  if (m.reset) {
    clear_all(bit);
    ++resets_;
  }
  n.next = m.next;
  n.since = m.since;
  for (const auto change : m.changes) {
    const std::uint64_t key = change & ~std::uint64_t{1};
    if ((change & 1) != 0)
      at(key).holders |= bit;
    else
      clear(key, bit, bit);
  }
  events_ += m.changes.size();
  return m.more && m.next > m.first;
}

void prefix_map::expect(std::uint64_t start, std::span<const std::uint64_t> keys, time_point now) {
  const auto n = nodes_.find(start);
  if (n == nodes_.end() || n->second.next == 0 || keys.empty()) return;
  const std::uint64_t bit = std::uint64_t{1} << n->second.bit;
  for (const auto key : keys) at(key).expected |= bit;
  expectations_.push_back({now + expected_for, bit, {keys.begin(), keys.end()}});
  expected_keys_ += keys.size();
  expire(now);
}

void prefix_map::expire(time_point now) {
  while (!expectations_.empty() &&
         (expectations_.front().until <= now || expected_keys_ > most_expected)) {
    const auto e = std::move(expectations_.front());
    expectations_.pop_front();
    expected_keys_ -= e.keys.size();
    for (const auto key : e.keys) clear(key, 0, e.bit);
  }
}

std::map<std::uint64_t, std::uint32_t> prefix_map::depths(std::span<const std::uint64_t> keys) {
  std::map<std::uint64_t, std::uint32_t> found;
  std::uint64_t alive = ~free_bits_;
  std::uint32_t depth = 0;
  auto end = [&](std::uint64_t ended) {
    if (depth == 0 || ended == 0) return;
    for (const auto& [start, n] : nodes_)
      if ((ended >> n.bit & 1) != 0) found[start] = depth;
  };
  for (; depth < keys.size() && alive != 0; ++depth) {
    const auto e = table_.find(keys[depth]);
    const std::uint64_t here = e == table_.end() ? 0 : e->second.holders | e->second.expected;
    if (e != table_.end()) e->second.used = true;
    end(alive & ~here);
    alive &= here;
  }
  end(alive);
  return found;
}

prefix_map::entry& prefix_map::at(std::uint64_t key) {
  if (const auto e = table_.find(key); e != table_.end()) return e->second;
  if (ring_.size() < capacity_) {
    ring_.push_back(key);
    return table_[key];
  }
  for (;;) {  // ends: a round takes every mark away
    std::uint64_t& slot = ring_[hand_];
    hand_ = (hand_ + 1) % ring_.size();
    const auto e = table_.find(slot);
    if (e != table_.end() && std::exchange(e->second.used, false)) continue;
    if (e != table_.end()) table_.erase(e);
    slot = key;
    return table_[key];
  }
}

void prefix_map::clear(std::uint64_t key, std::uint64_t holder, std::uint64_t expected) {
  const auto e = table_.find(key);
  if (e == table_.end()) return;
  e->second.holders &= ~holder;
  e->second.expected &= ~expected;
  if (e->second.holders == 0 && e->second.expected == 0) table_.erase(e);
}

void prefix_map::clear_all(std::uint64_t bit) {
  for (auto e = table_.begin(); e != table_.end();) {
    e->second.holders &= ~bit;
    e->second.expected &= ~bit;
    e = e->second.holders == 0 && e->second.expected == 0 ? table_.erase(e) : std::next(e);
  }
}

}  // namespace troupe::actors
