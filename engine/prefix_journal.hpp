// What content a node holds, as a log that others can follow: each block that comes or goes gets a sequence number.
//
// The log is compacting: of what is there, every entry is kept; of what went, the latest `removed_limit`. A follower asks
// from the number that it knows on. While all that went since is still in the log it gets the changes; else, or when it
// knows nothing, a snapshot, which is the log from its beginning: entries of what is there, in the order in which they
// came (so that a prompt's beginning is told before its end), in pages, with what went while the pages were read.
//
// Blocks are named by 63 bits of their hash. That is for ranking only: nobody uses a block because of it.
//
// A block may be held twice (a store's memory and its file): it is there until both let go.
// Threads: every function from any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/hash.hpp"

namespace troupe::engine {

class prefix_journal {
 public:
  explicit prefix_journal(std::size_t removed_limit = 1 << 16) : removed_limit_(removed_limit) {}

  // The lowest bit is left for what happened.
  static std::uint64_t key(const hash128_t& hash) { return hash.low & ~std::uint64_t{1}; }

  void stored(const hash128_t& hash);
  void removed(const hash128_t& hash);  // REQUIRES: stored before

  struct page {
    std::uint64_t first = 0, next = 0;  // sequence numbers: [first, next)
    std::uint64_t since = 0;            // to be passed with the next call
    bool reset = false;                 // what the follower knew is void
    bool more = false;
    std::vector<std::uint64_t> changes;  // in order: key | 1 came, key went
  };
  // `next`: the first number that the follower does not know, 0: it knows nothing. `since`: of its last page.
  page read(std::uint64_t next, std::uint64_t since, std::size_t limit) const;
  std::size_t size() const;  // blocks that are there

 private:
  struct holding {
    std::uint64_t sequence = 0;
    std::uint32_t times = 0;
  };
  const std::size_t removed_limit_;
  mutable std::mutex mutex_;
  std::uint64_t next_ = 1;
  std::map<std::uint64_t, std::uint64_t> present_;  // key by sequence number
  std::unordered_map<std::uint64_t, holding> by_key_;
  std::deque<std::pair<std::uint64_t, std::uint64_t>> removed_;  // sequence number, key
  std::uint64_t forgotten_ = 0;  // the latest removal that is not in the log any more
};

}  // namespace troupe::engine
