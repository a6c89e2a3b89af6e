// The blocks of one arena and their states. A block is in exactly one:
//
//            allocate                 seal                 last unref
//   free ──────────────► writing ──────────────► sealed ──────────────► cached (content-addressed)
//   or free
//    ▲ ▲  allocate_pull                seal        ▲  ▲                    │   │ eviction, least
//    recently used first │ └──────────────── pulling ──────────────────┘  └──── ref ───────────┘
//    └──► as from free │                      │ unref while a pull is in flight └── end_pull ──
//    quarantined
//
// Free requires proof that nothing targets the block: a block under a pull reaches free only
// through end_pull. The sum over the states is the pool's size at every moment. Each allocation is
// a new generation of the block.
//
// Owner and thread: one engine.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "engine/block_sealer.hpp"
#include "engine/prefix_index.hpp"

namespace troupe::engine {

enum class block_state : std::uint8_t { free, cached, writing, sealed, pulling, quarantined };
inline constexpr std::size_t num_block_states = 6;

class block_pool {
 public:
  // `index` forgets blocks that are evicted. `sealer` invalidates fences before blocks are written
  // again.
  block_pool(std::uint32_t num_blocks, prefix_index& index, block_sealer& sealer);

  std::uint32_t size() const { return static_cast<std::uint32_t>(blocks_.size()); }
  std::uint32_t available() const { return count(block_state::free) + count(block_state::cached); }
  std::uint32_t count(block_state s) const { return counts_[static_cast<std::size_t>(s)]; }
  std::uint64_t evictions() const { return evictions_; }

  // A block with one reference, to be written here or by a pull. Evicts when nothing is free.
  // REQUIRES: available().
  block_id allocate(block_state to);
  void ref(block_id b);     // REQUIRES: sealed or cached
  void unref(block_id b);   // REQUIRES: a reference is held
  void seal(block_id b);    // its content is complete. REQUIRES: writing, or pulling without a pull
                            // in flight
  void reopen(block_id b);  // to be written further. REQUIRES: pulling without a pull in flight
  void begin_pull(block_id b);  // REQUIRES: pulling, no pull in flight
  void end_pull(block_id b);    // REQUIRES: a pull is in flight

  block_state state(block_id b) const { return blocks_[b].state; }
  std::uint32_t references(block_id b) const { return blocks_[b].references; }
  std::uint64_t generation(block_id b) const { return blocks_[b].generation; }
  bool in_flight(block_id b) const { return blocks_[b].in_flight; }

  // The fence of the block's present generation, written at most once. REQUIRES: sealed
  void write_fence(block_id b, const transport::block_tag& tag);

  // Empty, or what contradicts the rules above.
  std::string check() const;

 private:
  static constexpr block_id none = ~block_id{0};
  struct block {
    block_state state = block_state::free;
    bool in_flight = false;
    bool fenced = false;       // the fence of this generation is written
    bool maybe_fenced = true;  // the arena may hold some valid fence here
    std::uint32_t references = 0;
    std::uint64_t generation = 0;
    block_id older = none, newer = none;  // neighbours in the list of cached blocks
  };

  void set_state(block_id b, block_state to);
  void link_newest(block_id b);
  void unlink(block_id b);

  prefix_index& index_;
  block_sealer& sealer_;
  std::vector<block> blocks_;
  std::vector<block_id> free_;
  block_id oldest_ = none, newest_ = none;  // cached blocks
  std::array<std::uint32_t, num_block_states> counts_{};
  std::uint64_t evictions_ = 0;
};

}  // namespace troupe::engine
