#include "engine/kv_store/block_store.hpp"

#include <algorithm>
#include <functional>
#include <limits>

#include "base/result.hpp"

namespace troupe::engine {
namespace {

constexpr std::uint32_t eviction_samples = 64;

}  // namespace

block_store::block_store(const block_store_options& options)
    : options_(options), slots_(options.num_blocks) {
  TROUPE_ASSERT(options.num_blocks > 0);
  for (block_id b = options.num_blocks; b-- > 0;) free_.push_back(b);
}

// -- readers -------------------------------------------------------------------------------------------------------------

void block_store::requested(std::span<const hash128_t> chain, std::uint64_t prompt_tokens,
                            time_point now) {
  const reuse_class kind = model_.requested(chain, prompt_tokens);
  for (const auto& hash : chain) {
    auto at = by_hash_.find(hash);
    if (at == by_hash_.end()) {
      expect(hash, kind);
      continue;
    }
    slot& s = slots_[at->second];
    s.kind = kind;
    s.used_request = model_.now();
    s.used = now;
  }
}

std::optional<block_id> block_store::find(const hash128_t& hash, const hash128_t& parent,
                                          std::span<const token_id> tokens) const {
  const auto b = present(hash);
  return b && slots_[*b].key.is(parent, tokens) ? b : std::nullopt;
}

void block_store::lease(std::uint64_t lease_id, std::span<const block_id> blocks, time_point now) {
  lease_record& record = leases_[lease_id];
  record.end = now + options_.lease;
  for (block_id b : blocks) {
    TROUPE_ASSERT(slots_[b].state == slot_state::present);
    ++slots_[b].leases;
    record.blocks.push_back(b);
  }
}

void block_store::release(std::uint64_t lease_id) {
  auto at = leases_.find(lease_id);
  if (at == leases_.end()) return;
  for (block_id b : at->second.blocks) --slots_[b].leases;
  leases_.erase(at);
}

// -- writers -------------------------------------------------------------------------------------------------------------

void block_store::expect(const hash128_t& hash, reuse_class kind) {
  if (expected_.insert_or_assign(hash, kind).second) expected_order_.push_back(hash);
  while (expected_order_.size() > slots_.size() + 4096) {
    expected_.erase(expected_order_.front());
    expected_order_.pop_front();
  }
}

// That of the request that asked for it; of a generated block, that of the block before it.
reuse_class block_store::kind_of(const block_key& key) const {
  if (auto at = expected_.find(key.hash); at != expected_.end()) return at->second;
  auto parent = by_hash_.find(key.parent);
  const int turn = parent == by_hash_.end() ? 1 : reuse_model::turn_of(slots_[parent->second].kind);
  return reuse_model::class_of(turn, key.prompt_tokens);
}

std::optional<block_id> block_store::reserve(const block_key& key, time_point now, bool needed) {
  TROUPE_ASSERT(key.tokens.size() == options_.block_tokens);
  if (by_hash_.contains(key.hash)) return std::nullopt;
  const reuse_class kind = kind_of(key);
  if (free_.empty()) {
    auto goes = victim(key, kind, needed);
    if (!goes) {
      ++counters_.not_admitted;
      return std::nullopt;
    }
    remove(*goes);
    ++counters_.evictions;
  }
  const block_id b = free_.back();
  free_.pop_back();
  slot& s = slots_[b];
  s.state = slot_state::filling;
  s.kind = kind;
  s.used_request = model_.now();
  s.used = now;
  s.key = key;
  ++s.generation;
  by_hash_.emplace(key.hash, b);
  return b;
}

void block_store::filled(block_id b, bool ok, time_point now) {
  slot& s = slots_[b];
  TROUPE_ASSERT(s.state == slot_state::filling);
  if (!ok) {
    ++counters_.failed;
    by_hash_.erase(s.key.hash);
    s.state = slot_state::free;
    free_.push_back(b);
    return;
  }
  ++counters_.stored;
  s.state = slot_state::present;
  s.used = now;
  if (options_.journal) options_.journal->stored(s.key.hash);
  if (++children_[s.key.parent] == 1)
    if (auto parent = by_hash_.find(s.key.parent); parent != by_hash_.end())
      unmake_leaf(parent->second);
  if (!children_.contains(s.key.hash)) make_leaf(b);
}

// -- eviction ------------------------------------------------------------------------------------------------------------

void block_store::make_leaf(block_id b) {
  if (slots_[b].state != slot_state::present || slots_[b].leaf != no_leaf) return;
  slots_[b].leaf = static_cast<std::uint32_t>(leaves_.size());
  leaves_.push_back(b);
}

void block_store::unmake_leaf(block_id b) {
  const std::uint32_t place = slots_[b].leaf;
  if (place == no_leaf) return;
  leaves_[place] = leaves_.back();
  slots_[leaves_[place]].leaf = place;
  leaves_.pop_back();
  slots_[b].leaf = no_leaf;
}

void block_store::remove(block_id b) {
  slot& s = slots_[b];
  TROUPE_ASSERT(evictable(b));
  unmake_leaf(b);
  by_hash_.erase(s.key.hash);
  if (options_.journal) options_.journal->removed(s.key.hash);
  s.state = slot_state::free;
  free_.push_back(b);
  auto siblings = children_.find(s.key.parent);
  if (--siblings->second > 0) return;
  children_.erase(siblings);
  if (auto parent = by_hash_.find(s.key.parent); parent != by_hash_.end())
    make_leaf(parent->second);
}

// The leaf worth least among a sample, unless the newcomer is worth less still. What the latest request used stays: it
// may be the newcomer's own prefix.
std::optional<block_id> block_store::victim(const block_key& newcomer, reuse_class kind,
                                            bool needed) {
  std::optional<block_id> best;
  int lowest = needed ? std::numeric_limits<int>::max() : model_.rank(kind, 0);
  auto consider = [&](block_id b) {
    const slot& s = slots_[b];
    if (!evictable(b) || s.key.hash == newcomer.parent) return;
    if (!needed && s.used_request == model_.now()) return;
    const int rank = model_.rank(s.kind, model_.now() - s.used_request);
    const bool older = !best || s.used_request < slots_[*best].used_request;
    if (rank < lowest || (rank == lowest && older)) {
      lowest = rank;
      best = b;
    }
  };
  if (leaves_.size() <= eviction_samples) {
    for (block_id b : leaves_) consider(b);
    return best;
  }
  for (std::uint32_t i = 0; i < eviction_samples; ++i) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    consider(leaves_[random_ % leaves_.size()]);
  }
  return best;
}

// -- operators -----------------------------------------------------------------------------------------------------------

bool block_store::pin(const hash128_t& hash, bool pinned, time_point until) {
  const auto b = present(hash);
  return b && pins_.set(*b, pinned, slots_.size(), until);
}

const block_key* block_store::find_key(const hash128_t& hash) const {
  const auto b = present(hash);
  return b ? &slots_[*b].key : nullptr;
}

// -- who leaves, or shares with others --------------------------------------------------------------------------------

std::vector<block_id> block_store::by_worth() const {
  struct worth {
    bool pinned;
    int rank;
    std::uint64_t used;
    std::uint32_t index;
    block_id block;
  };
  std::vector<worth> all;
  for (block_id b = 0; b < slots_.size(); ++b) {
    const slot& s = slots_[b];
    if (s.state != slot_state::present) continue;
    all.push_back({pins_.pinned(b), model_.rank(s.kind, model_.now() - s.used_request),
                   s.used_request, s.key.index, b});
  }
  // A prompt's beginning is worth what the best of its ends is. One pass from the ends on does it.
  std::ranges::sort(all, std::greater<>(), &worth::index);
  std::unordered_map<hash128_t, std::size_t> at;
  for (std::size_t i = 0; i < all.size(); ++i) at[slots_[all[i].block].key.hash] = i;
  for (const worth& w : all) {
    const auto parent = at.find(slots_[w.block].key.parent);
    if (parent == at.end()) continue;
    worth& p = all[parent->second];
    p.pinned = p.pinned || w.pinned;
    p.rank = std::max(p.rank, w.rank);
    p.used = std::max(p.used, w.used);
  }
  std::ranges::sort(all, [](const worth& a, const worth& b) {
    if (a.pinned != b.pinned) return a.pinned;
    if (a.rank != b.rank) return a.rank > b.rank;
    if (a.used != b.used) return a.used > b.used;
    return a.index != b.index ? a.index < b.index : a.block < b.block;
  });
  std::vector<block_id> blocks;
  for (const worth& w : all) blocks.push_back(w.block);
  return blocks;
}

std::optional<block_id> block_store::present(const hash128_t& hash) const {
  const auto at = by_hash_.find(hash);
  if (at == by_hash_.end() || slots_[at->second].state != slot_state::present) return std::nullopt;
  return at->second;
}

void block_store::drop(block_id b) {
  if (evictable(b)) remove(b);
}

std::uint32_t block_store::clear() {
  std::uint32_t removed = 0;
  for (block_id b = 0; b < slots_.size(); ++b) {
    if (slots_[b].leases == 0) pins_.unpin(b);
    if (!evictable(b)) continue;
    remove(b);
    ++removed;
  }
  return removed;
}

std::vector<std::uint64_t> block_store::expire(time_point now) {
  std::vector<std::uint64_t> ended;
  for (const auto& [id, record] : leases_)
    if (record.end <= now) ended.push_back(id);
  for (auto id : ended) release(id);
  pins_.expire(now);
  if (options_.ttl.count() == 0) return ended;
  for (block_id b = 0; b < slots_.size(); ++b) {
    if (!evictable(b) || now - slots_[b].used < options_.ttl) continue;
    remove(b);
    ++counters_.expired;
  }
  return ended;
}

block_store_stats block_store::stats() const {
  block_store_stats s = counters_;
  for (const slot& x : slots_) {
    s.filling += x.state == slot_state::filling;
    s.blocks += x.state == slot_state::present;
    s.leased += x.leases > 0;
  }
  s.pinned = pins_.size();
  return s;
}

std::chrono::seconds block_store::oldest_use(time_point now) const {
  time_point oldest = now;
  for (const slot& s : slots_)
    if (s.state == slot_state::present) oldest = std::min(oldest, s.used);
  return std::chrono::duration_cast<std::chrono::seconds>(now - oldest);
}

std::string block_store::check_invariants() const {
  std::unordered_map<hash128_t, std::uint32_t> children;
  std::vector<std::uint32_t> leased(slots_.size());
  std::size_t named = 0, free = 0;
  for (const auto& [id, record] : leases_)
    for (block_id b : record.blocks) ++leased[b];
  for (const slot& s : slots_)
    if (s.state == slot_state::present) ++children[s.key.parent];
  if (children != children_) return "the counts of following blocks differ from the blocks";
  for (block_id b = 0; b < slots_.size(); ++b) {
    const slot& s = slots_[b];
    const std::string name = "block " + std::to_string(b);
    if (s.leases != leased[b]) return name + ": its leases differ from the readers'";
    if (s.leases > 0 && s.state != slot_state::present) return name + ": leased, but not present";
    const bool is_leaf = s.state == slot_state::present && !children_.contains(s.key.hash);
    if ((s.leaf != no_leaf) != is_leaf) return name + ": the list of leaves is wrong about it";
    if (is_leaf && (s.leaf >= leaves_.size() || leaves_[s.leaf] != b))
      return name + ": is not where the list of leaves should have it";
    free += s.state == slot_state::free;
    if (s.state == slot_state::free) continue;
    ++named;
    auto at = by_hash_.find(s.key.hash);
    if (at == by_hash_.end() || at->second != b) return name + ": cannot be found by its hash";
  }
  if (named != by_hash_.size()) return "the index names blocks that are free";
  return free == free_.size() ? std::string() : "the free list differs from the free blocks";
}

}  // namespace troupe::engine
