#include "engine/kv_cache.hpp"

#include <algorithm>

namespace troupe::engine {

kv_cache::kv_cache(const kv_cache_options& options, block_sealer& sealer)
    : block_tokens_(options.block_tokens),
      prefix_caching_(options.prefix_caching),
      kv_identity_(options.kv_identity),
      sealer_(sealer),
      index_(options.num_blocks, options.block_tokens, options.journal),
      pool_(options.num_blocks, index_, sealer) {}

hash128_t kv_cache::parent_of(const sequence& s, std::uint32_t i) const {
  return i == 0 ? root_hash(kv_identity_, s.request.cache_salt) : s.hashes[i - 1];
}

void kv_cache::add_hashes(sequence& s, std::uint32_t blocks) {
  while (s.hashes.size() < blocks) {
    const auto i = static_cast<std::uint32_t>(s.hashes.size());
    s.hashes.push_back(chain_hash(parent_of(s, i), s.block_tokens(i, block_tokens_)));
  }
}

bool kv_cache::admit(sequence& s, std::uint32_t spare) {
  return admit_as(s, spare, block_state::writing, s.wants_prompt_logprobs ? 0 : reusable_blocks(s));
}

// The peer samples the first token, so not even the last block need be computed here; but it may be
// partial.
bool kv_cache::admit_remote(sequence& s, std::uint32_t spare) {
  return admit_as(s, spare, block_state::pulling, s.num_tokens() / block_tokens_);
}

bool kv_cache::admit_as(sequence& s, std::uint32_t spare, block_state to, std::uint32_t reusable) {
  TROUPE_ASSERT(s.table.empty() && s.num_computed == 0);
  hits_.clear();
  std::uint32_t idle_hits = 0;  // cached: counted as available until they are taken
  if (prefix_caching_) {
    for (std::uint32_t i = 0; i < reusable; ++i) {
      add_hashes(s, i + 1);
      const auto hit = index_.find(s.hashes[i], parent_of(s, i), s.block_tokens(i, block_tokens_));
      if (!hit) break;
      hits_.push_back(*hit);
      if (pool_.state(*hit) == block_state::cached) ++idle_hits;
    }
  }
  const auto num_hits = static_cast<std::uint32_t>(hits_.size());
  const std::uint32_t fresh = blocks_for(s.num_tokens()) - num_hits;
  if (pool_.available() - idle_hits < fresh + spare) return false;
  for (block_id b : hits_) pool_.ref(b);
  s.table.assign(hits_.begin(), hits_.end());
  // Held while the new blocks are allocated, which may evict.
  prefix_index::partial_hit partial;
  if (to == block_state::writing) partial = take_partial(s, fresh + spare);
  for (std::uint32_t i = 0; i < fresh; ++i) s.table.push_back(pool_.allocate(to));
  s.num_computed = num_hits * block_tokens_;
  s.num_sealed = num_hits;
  if (partial.tokens > 0) {
    if (sealer_.copy(partial.block, s.table[num_hits])) s.num_computed += partial.tokens;
    pool_.unref(partial.block);
  }
  if (prefix_caching_ && !s.was_admitted) {
    queried_tokens_ += s.num_tokens();
    hit_tokens_ += s.num_computed;
    s.usage.cached_tokens = std::min(s.num_computed, s.num_prompt);
  }
  return true;
}

prefix_index::partial_hit kv_cache::take_partial(const sequence& s, std::uint32_t needed) {
  const auto i = static_cast<std::uint32_t>(s.table.size());
  if (!prefix_caching_ || s.wants_prompt_logprobs) return {};
  const std::uint32_t first = i * block_tokens_, last = s.num_tokens() - 1;  // to be computed
  const auto wanted = std::span(s.tokens).subspan(first, std::min(block_tokens_, last - first));
  const auto found = index_.find_partial(parent_of(s, i), wanted);
  if (found.tokens == 0) return found;
  const bool idle = pool_.state(found.block) == block_state::cached;
  if (idle && pool_.available() <= needed) return {};
  pool_.ref(found.block);
  return found;
}

bool kv_cache::grow(sequence& s) {
  while (s.table.size() < blocks_for(s.num_tokens())) {
    if (pool_.available() == 0) return false;
    s.table.push_back(pool_.allocate(block_state::writing));
  }
  return true;
}

std::uint32_t kv_cache::grow_for_drafts(sequence& s, std::uint32_t wanted) {
  const std::uint32_t spare = 1 + pool_.size() / 100;
  while (s.table.size() < blocks_for(s.num_tokens() + wanted) && pool_.available() > spare)
    s.table.push_back(pool_.allocate(block_state::writing));
  const auto room = static_cast<std::uint32_t>(s.table.size()) * block_tokens_ - s.num_tokens();
  return std::min(wanted, room);
}

bool kv_cache::fork(const sequence& s, draft_branch& b) {
  TROUPE_ASSERT(s.num_sealed == s.num_computed / block_tokens_ && b.table.empty());
  const auto guesses = static_cast<std::uint32_t>(b.verify.size()) - 1;
  const std::uint32_t shared = s.num_sealed, own = blocks_for(s.num_tokens() + guesses) - shared;
  const std::uint32_t spare = 1 + pool_.size() / 100;
  if (!can_fork() || pool_.available() < own + spare) return false;
  b.table.assign(s.table.begin(), s.table.begin() + shared);
  b.num_shared = shared;
  for (std::uint32_t i = 0; i < own; ++i) b.table.push_back(pool_.allocate(block_state::writing));
  const bool partial = s.num_computed % block_tokens_ != 0;
  if (partial) TROUPE_ASSERT(sealer_.copy(s.table[shared], b.table[shared]));
  return true;
}

// The sequence keeps blocks that are sealed by now: one of them may be the first of the branch's own, with the same content.
void kv_cache::adopt(sequence& s, draft_branch& b) {
  const std::uint32_t kept = s.num_sealed;
  for (; s.table.size() > kept; s.table.pop_back()) pool_.unref(s.table.back());
  for (std::uint32_t i = b.num_shared; i < kept; ++i) pool_.unref(b.table[i]);
  s.table.insert(s.table.end(), b.table.begin() + kept, b.table.end());
  b.table.clear();
}

void kv_cache::drop(draft_branch& b) {
  for (; b.table.size() > b.num_shared; b.table.pop_back()) pool_.unref(b.table.back());
  b.table.clear();
}

bool kv_cache::publish(sequence& s, std::uint32_t i) {
  if (!prefix_caching_) return false;
  add_hashes(s, i + 1);
  // A twin of an equal block that another sequence computed at the same time stays without an
  // address.
  return index_.insert(s.hashes[i], parent_of(s, i), s.block_tokens(i, block_tokens_), s.table[i]);
}

void kv_cache::commit(sequence& s) {
  for (; s.num_sealed < s.num_computed / block_tokens_; ++s.num_sealed) {
    pool_.seal(s.table[s.num_sealed]);
    if (publish(s, s.num_sealed) && on_computed_) on_computed_(s, s.num_sealed);
  }
}

void kv_cache::seal_last(sequence& s) {
  if (s.num_sealed == s.table.size()) return;
  TROUPE_ASSERT(s.num_sealed + 1 == s.table.size());
  pool_.seal(s.table[s.num_sealed++]);
}

// From the end, so that of one prefix the tail is evicted first.
void kv_cache::truncate(sequence& s, std::uint32_t blocks) {
  while (s.table.size() > blocks) {
    pool_.unref(s.table.back());
    s.table.pop_back();
  }
  s.num_sealed = std::min(s.num_sealed, blocks);
  s.num_announced = std::min(s.num_announced, blocks);
  s.num_computed = std::min(s.num_computed, blocks * block_tokens_);
}

void kv_cache::release(sequence& s) {
  truncate(s, 0);
}

void kv_cache::arrived(sequence& s, std::uint32_t i) {
  // A partial block stays as it is: it will be written further.
  if ((i + 1) * block_tokens_ > s.num_context) return;
  pool_.seal(s.table[i]);
  publish(s, i);
}

void kv_cache::finish_remote(sequence& s) {
  if (s.num_context % block_tokens_ != 0) pool_.reopen(s.table[s.num_context / block_tokens_]);
  s.num_computed = s.num_context;
  s.num_sealed = s.num_context / block_tokens_;
}

void kv_cache::abandon_remote(sequence& s) {
  std::uint32_t kept = 0;
  while (kept < reusable_blocks(s) && kept < s.table.size() &&
         pool_.state(s.table[kept]) == block_state::sealed)
    ++kept;
  truncate(s, kept);
  s.num_computed = kept * block_tokens_;
  s.num_sealed = kept;
}

}  // namespace troupe::engine
