// Which node holds which blocks, as a router knows it: follows the journals of nodes (engine/prefix_journal.hpp) and
// tells how much of a prompt each of them has. A plain object, bounded in memory whatever the number of nodes: when its
// budget is used up, the blocks that were asked for least recently are forgotten (second chance).
//
// What it knows may be late, incomplete or wrong. It ranks nodes; no block is used because of it.
// Owner and thread: one route_policy; the time is a parameter.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "actors/holder_set.hpp"
#include "actors/messages.hpp"

namespace troupe::actors {

class prefix_map {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  // What a block costs that few nodes hold, in this process's memory.
  static constexpr std::size_t entry_bytes = 88;
  static constexpr std::size_t most_nodes = 1 << 15;
  explicit prefix_map(std::size_t budget_bytes = 64 << 20) : budget_(budget_bytes) {}

  void add_node(std::uint64_t start);  // idempotent; of more than most_nodes nothing is known
  void remove_node(std::uint64_t start);

  bool follows(std::uint64_t start) const { return numbers_.contains(start); }
  // What to ask a node for next.
  prefix_events_request ask(std::uint64_t start) const;
  // A node's answer; one that does not follow what is known is left out. True: there is more to ask for now.
  bool apply(const prefix_events& m);
  // A prompt was sent there: its blocks are expected until the node tells, or for a while. Not of a node that never told
  // anything: it may keep none.
  void expect(std::uint64_t start, std::span<const std::uint64_t> keys, time_point now);
  void expire(time_point now);

  // Leading blocks of the chain that each node holds, by incarnation, in no order; those with none are left out.
  std::vector<std::pair<std::uint64_t, std::uint32_t>> depths(std::span<const std::uint64_t> keys);

  std::size_t size() const { return table_.size(); }  // blocks
  std::size_t bytes() const { return bytes_; }
  std::uint64_t events() const { return events_; }
  std::uint64_t resets() const { return resets_; }

 private:
  using mark = holder_set::mark;
  struct entry {
    holder_set holders;
    std::uint32_t slot = 0;  // in ring_
    bool used = false;       // since the hand came by
  };
  struct node {
    std::uint64_t start = 0;  // 0: the number is free
    std::uint64_t next = 0, since = 0;
    std::size_t marks = 0;  // of all blocks
  };
  struct expectation {
    time_point until;
    std::optional<std::uint32_t> number;  // of the node, while it is there
    std::vector<std::uint64_t> keys;
  };
  using table = std::unordered_map<std::uint64_t, entry>;

  node* find(std::uint64_t start);
  void set(std::uint64_t key, mark m);
  void clear(std::uint64_t key, mark m);
  bool unmark(entry& e, mark m);  // true: nobody holds the block any more
  void clear_node(std::uint32_t number);
  table::iterator at(std::uint64_t key);
  table::iterator erase(table::iterator e);
  void make_room();

  static constexpr std::uint64_t no_key = 1;  // keys are even
  std::size_t budget_;
  std::size_t bytes_ = 0;
  table table_;
  std::vector<std::uint64_t> ring_;  // keys, or no_key
  std::vector<std::uint32_t> free_slots_;
  std::size_t hand_ = 0;
  std::unordered_map<std::uint64_t, std::uint32_t> numbers_;  // of nodes, by incarnation
  std::vector<node> nodes_;
  std::vector<std::uint32_t> free_numbers_;
  std::deque<expectation> expectations_;
  std::size_t expected_keys_ = 0;
  std::uint64_t events_ = 0, resets_ = 0;
};

}  // namespace troupe::actors
