// Which node holds which blocks, as a router knows it: follows the journals of nodes (engine/prefix_journal.hpp) and
// tells how much of a prompt each of them has. A plain object, bounded in memory: a table of at most `capacity` blocks,
// of which the least recently asked for go first (second chance), and a bit for each of at most 64 nodes.
//
// What it knows may be late, incomplete or wrong. It ranks nodes; no block is used because of it.
// Owner and thread: one route_policy; the time is a parameter.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "actors/messages.hpp"

namespace troupe::actors {

class prefix_map {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  explicit prefix_map(std::size_t capacity = 1 << 19) : capacity_(capacity) {}

  void add_node(std::uint64_t start);  // idempotent; of more than 64 nothing is known
  void remove_node(std::uint64_t start);

  bool follows(std::uint64_t start) const { return nodes_.contains(start); }
  // What to ask a node for next.
  prefix_events_request ask(std::uint64_t start) const;
  // A node's answer; one that does not follow what is known is left out. True: there is more to ask for now.
  bool apply(const prefix_events& m);
  // A prompt was sent there: its blocks are expected until the node tells, or for a while. Not of a node that never told
  // anything: it may keep none.
  void expect(std::uint64_t start, std::span<const std::uint64_t> keys, time_point now);
  void expire(time_point now);

  // Leading blocks of the chain that each node holds, by incarnation; those with none are left out.
  std::map<std::uint64_t, std::uint32_t> depths(std::span<const std::uint64_t> keys);

  std::size_t size() const { return table_.size(); }
  std::uint64_t events() const { return events_; }
  std::uint64_t resets() const { return resets_; }

 private:
  struct entry {
    std::uint64_t holders = 0, expected = 0;  // a bit a node
    bool used = false;                        // since the hand came by
  };
  struct node {
    int bit = 0;
    std::uint64_t next = 0, since = 0;
  };
  struct expectation {
    time_point until;
    std::uint64_t bit = 0;
    std::vector<std::uint64_t> keys;
  };
  entry& at(std::uint64_t key);
  void clear(std::uint64_t key, std::uint64_t holder, std::uint64_t expected);
  void clear_all(std::uint64_t bit);

  std::size_t capacity_;
  std::unordered_map<std::uint64_t, entry> table_;
  std::vector<std::uint64_t> ring_;  // keys, some of which are gone from the table
  std::size_t hand_ = 0;
  std::map<std::uint64_t, node> nodes_;  // by incarnation
  std::uint64_t free_bits_ = ~std::uint64_t{0};
  std::deque<expectation> expectations_;
  std::size_t expected_keys_ = 0;
  std::uint64_t events_ = 0, resets_ = 0;
};

}  // namespace troupe::actors
