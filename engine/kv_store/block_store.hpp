// The KV store's index over its memory arena: which blocks are where, who reads them, which one goes when room is
// needed. Content addressed: a block is its chained hash (engine/prefix_index.hpp), which the KV identity and the cache
// salt seed; its tokens are kept and compared as well. A plain object: no thread, the time is a parameter.
//
// A block's states:
//
//            reserve                filled(ok)
//   free ──────────────► filling ──────────────► present ──► free     evicted, expired, cleared; never while it is
//    ▲                      │ filled(not ok)        │ ▲               leased or pinned
//    └──────────────────────┘                       └─┘ lookup: leased, until release or the lease's end
//
// Only leaves are evicted (blocks no present block follows), so that what is present stays reachable; which of them,
// reuse_model says. A block that is worth less than all that is here is not taken.
//
// Owner and thread: one store.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/hash.hpp"
#include "base/ids.hpp"
#include "engine/generation.hpp"
#include "engine/kv_store/pins.hpp"
#include "engine/kv_store/reuse_model.hpp"
#include "engine/prefix_journal.hpp"

namespace troupe::engine {

struct block_store_options {
  std::uint32_t num_blocks = 0;
  std::uint32_t block_tokens = 16;
  std::chrono::seconds ttl{0};  // of what is not used; 0: until it is evicted
  std::chrono::milliseconds lease{5000};
  std::shared_ptr<prefix_journal> journal{};  // hears what comes and goes; may be null
};

// What a block is, as its owner or a file names it.
struct block_key {
  hash128_t hash, parent;
  std::vector<token_id> tokens;     // [block_tokens]
  std::uint32_t index = 0;          // of the block in its chain
  std::uint64_t prompt_tokens = 0;  // of the request that it was computed for

  bool is(const hash128_t& follows, std::span<const token_id> holds) const {
    return parent == follows && std::ranges::equal(tokens, holds);
  }
};

struct block_store_stats {
  std::uint32_t blocks = 0, filling = 0, leased = 0, pinned = 0;
  std::uint64_t stored = 0, evictions = 0, expired = 0, not_admitted = 0, failed = 0;
};

class block_store {
 public:
  explicit block_store(const block_store_options& options);

  // -- readers -------------------------------------------------------------------------------------------------------
  // A request for the prompt with these chained hashes and tokens (its full blocks). Teaches the reuse model.
  void requested(std::span<const hash128_t> chain, std::uint64_t prompt_tokens, time_point now);
  // The block, if it is here with these tokens behind this parent: two that share a hash are not taken for each other.
  std::optional<block_id> find(const hash128_t& hash, const hash128_t& parent,
                               std::span<const token_id> tokens) const;
  // Keeps blocks for a reader until release() or the lease's end; may be called again for the same lease.
  void lease(std::uint64_t lease_id, std::span<const block_id> blocks, time_point now);
  void release(std::uint64_t lease_id);

  // -- writers -------------------------------------------------------------------------------------------------------
  // A block to fill; nullopt: it is here or being filled already, or is not worth the room. `needed`: a reader waits
  // for it, so it is taken whatever its worth.
  std::optional<block_id> reserve(const block_key& key, time_point now, bool needed = false);
  void filled(block_id block, bool ok, time_point now);

  // -- operators -----------------------------------------------------------------------------------------------------
  // Keeps a block from eviction and TTL for a while. False: it is not here, or half of all blocks are pinned already.
  bool pin(const hash128_t& hash, bool pinned, time_point until = time_point::max());
  std::uint32_t clear();  // all that is neither leased nor filling; how many
  // TTL, pins, and leases whose readers vanished; the leases that ended so.
  std::vector<std::uint64_t> expire(time_point now);
  const block_key* find_key(const hash128_t& hash) const;  // null: it is not here

  // -- who leaves, or shares with others --------------------------------------------------------------------------------
  // What is present, the most worth first: pinned, then as eviction ranks it; a block comes after the one it follows.
  std::vector<block_id> by_worth() const;
  std::optional<block_id> present(const hash128_t& hash) const;
  void drop(block_id b);  // unless it is leased or pinned
  // nullopt: it is not pinned
  std::optional<time_point> pinned_until(block_id b) const { return pins_.until(b); }

  std::uint64_t generation(block_id b) const { return slots_[b].generation; }
  const block_key& key(block_id b) const { return slots_[b].key; }
  block_store_stats stats() const;
  std::chrono::seconds oldest_use(
      time_point now) const;             // age of the block that was not used for longest
  std::string check_invariants() const;  // empty, or what is broken

 private:
  enum class slot_state : std::uint8_t { free, filling, present };
  static constexpr std::uint32_t no_leaf = ~std::uint32_t{0};
  struct slot {
    slot_state state = slot_state::free;
    std::uint32_t leases = 0, leaf = no_leaf;  // place in leaves_
    reuse_class kind = 0;
    std::uint64_t generation = 0, used_request = 0;
    time_point used{};
    block_key key;
  };
  struct lease_record {
    std::vector<block_id> blocks;
    time_point end;
  };

  bool evictable(block_id b) const {
    return slots_[b].state == slot_state::present && slots_[b].leases == 0 && !pins_.pinned(b);
  }
  std::optional<block_id> victim(const block_key& newcomer, reuse_class kind, bool needed);
  void expect(const hash128_t& hash, reuse_class kind);
  void make_leaf(block_id b);
  void unmake_leaf(block_id b);
  void remove(block_id b);  // REQUIRES: evictable; a leaf's parent may become one
  reuse_class kind_of(const block_key& key) const;

  const block_store_options options_;
  reuse_model model_;
  std::vector<slot> slots_;
  std::vector<block_id> free_, leaves_;
  std::unordered_map<hash128_t, block_id> by_hash_;        // filling and present
  std::unordered_map<hash128_t, std::uint32_t> children_;  // present blocks by their parent's hash
  std::unordered_map<std::uint64_t, lease_record> leases_;
  // Kinds of blocks that requests asked for in vain: they will be offered soon.
  std::unordered_map<hash128_t, reuse_class> expected_;
  std::deque<hash128_t> expected_order_;
  std::uint64_t random_ =
      0x9E3779B97F4A7C15ull;  // of the samples; a fixed seed: equal histories, equal victims
  pin_table pins_;
  block_store_stats counters_;
};

}  // namespace troupe::engine
