#include "engine/block_pool.hpp"

#include "base/result.hpp"

#include "base/mutation.hpp"

namespace troupe::engine {

block_pool::block_pool(std::uint32_t num_blocks, prefix_index& index, block_sealer& sealer)
    : index_(index), sealer_(sealer), blocks_(num_blocks) {
  counts_[static_cast<std::size_t>(block_state::free)] = num_blocks;
  free_.reserve(num_blocks);
  for (block_id b = num_blocks; b-- > 0;) free_.push_back(b);
}

void block_pool::set_state(block_id b, block_state to) {
  --counts_[static_cast<std::size_t>(blocks_[b].state)];
  ++counts_[static_cast<std::size_t>(to)];
  blocks_[b].state = to;
}

void block_pool::link_newest(block_id b) {
  blocks_[b].older = newest_;
  blocks_[b].newer = none;
  (newest_ == none ? oldest_ : blocks_[newest_].newer) = b;
  newest_ = b;
}

void block_pool::unlink(block_id b) {
  const block& x = blocks_[b];
  (x.older == none ? oldest_ : blocks_[x.older].newer) = x.newer;
  (x.newer == none ? newest_ : blocks_[x.newer].older) = x.older;
}

block_id block_pool::allocate(block_state to) {
  TROUPE_ASSERT(to == block_state::writing || to == block_state::pulling);
  TROUPE_ASSERT(available() > 0);
  block_id b = none;
  if (!free_.empty()) {
    b = free_.back();
    free_.pop_back();
  } else {
    b = oldest_;
    unlink(b);
    index_.erase(b);
    ++evictions_;
  }
  block& x = blocks_[b];
  set_state(b, to);
  x.references = 1;
  ++x.generation;
  // No pull by a peer that begins after this can verify, whatever it still believes to be here.
  if (x.maybe_fenced) sealer_.invalidate(b);
  x.fenced = false;
  x.maybe_fenced = to == block_state::pulling;  // a pull brings the peer's fence along
  return b;
}

void block_pool::ref(block_id b) {
  TROUPE_ASSERT(state(b) == block_state::sealed || state(b) == block_state::cached);
  if (state(b) == block_state::cached) {
    unlink(b);
    set_state(b, block_state::sealed);
  }
  ++blocks_[b].references;
}

void block_pool::unref(block_id b) {
  block& x = blocks_[b];
  TROUPE_ASSERT(x.references > 0);
  if (--x.references > 0) return;
  if (x.in_flight && !TROUPE_PLANTED(quarantine_off)) {
    set_state(b, block_state::quarantined);
  } else if (index_.contains(b)) {
    set_state(b, block_state::cached);
    link_newest(b);
  } else {
    set_state(b, block_state::free);
    free_.push_back(b);
  }
}

void block_pool::seal(block_id b) {
  TROUPE_ASSERT(state(b) == block_state::writing || state(b) == block_state::pulling);
  TROUPE_ASSERT(!in_flight(b));
  set_state(b, block_state::sealed);
}

void block_pool::reopen(block_id b) {
  TROUPE_ASSERT(state(b) == block_state::pulling && !in_flight(b));
  set_state(b, block_state::writing);
}

void block_pool::begin_pull(block_id b) {
  TROUPE_ASSERT(state(b) == block_state::pulling && !in_flight(b));
  blocks_[b].in_flight = true;
}

void block_pool::end_pull(block_id b) {
  TROUPE_ASSERT(in_flight(b));
  blocks_[b].in_flight = false;
  if (state(b) != block_state::quarantined) return;
  set_state(b, block_state::free);
  free_.push_back(b);
}

void block_pool::write_fence(block_id b, const transport::block_tag& tag) {
  block& x = blocks_[b];
  TROUPE_ASSERT(x.state == block_state::sealed && tag.generation == x.generation);
  if (x.fenced) return;
  sealer_.seal(b, tag);
  x.fenced = x.maybe_fenced = true;
}

std::string block_pool::check() const {
  std::array<std::uint32_t, num_block_states> counts{};
  for (block_id b = 0; b < size(); ++b) {
    const block& x = blocks_[b];
    ++counts[static_cast<std::size_t>(x.state)];
    const std::string name = "block " + std::to_string(b);
    const bool held = x.state == block_state::writing || x.state == block_state::sealed ||
                      x.state == block_state::pulling;
    if (held != (x.references > 0)) return name + ": references do not fit its state";
    if (x.references > 1 && x.state != block_state::sealed)
      return name + ": shared, but not sealed";
    if (x.in_flight && x.state != block_state::pulling && x.state != block_state::quarantined)
      return name + ": a pull is in flight into a block that is neither pulling nor quarantined";
    if (x.state == block_state::quarantined && !x.in_flight)
      return name + ": quarantined without a pull";
    const bool may_be_indexed = x.state == block_state::cached || x.state == block_state::sealed;
    if (index_.contains(b) && !may_be_indexed)
      return name + ": indexed, but its content is not final";
    if (x.state == block_state::cached && !index_.contains(b))
      return name + ": cached without an address";
  }
  if (counts != counts_) return "block counts differ from the blocks' states";
  if (free_.size() != count(block_state::free))
    return "free list differs from the number of free blocks";
  for (block_id b : free_)
    if (state(b) != block_state::free)
      return "block " + std::to_string(b) + ": in the free list, but not free";
  std::uint32_t cached = 0;
  for (block_id b = oldest_; b != none; b = blocks_[b].newer, ++cached)
    if (cached > size() || state(b) != block_state::cached)
      return "the list of cached blocks is broken";
  if (cached != count(block_state::cached))
    return "a cached block is not in the list of cached blocks";
  return index_.consistent() ? std::string() : "the prefix index contradicts itself";
}

}  // namespace troupe::engine
