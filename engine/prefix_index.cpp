#include "engine/prefix_index.hpp"

#include <algorithm>
#include <iterator>

#include "base/result.hpp"

namespace troupe::engine {

hash128_t root_hash(const hash128_t& kv_identity, std::string_view cache_salt) {
  hash128_stream h;
  h.update(std::as_bytes(std::span(&kv_identity, 1)));
  h.update(std::as_bytes(std::span(cache_salt.data(), cache_salt.size())));
  return h.digest();
}

hash128_t chain_hash(const hash128_t& parent, std::span<const token_id> tokens) {
  hash128_stream h;
  h.update(std::as_bytes(std::span(&parent, 1)));
  h.update(std::as_bytes(tokens));
  return h.digest();
}

prefix_index::prefix_index(std::uint32_t num_blocks, std::uint32_t block_tokens,
                           std::shared_ptr<prefix_journal> journal)
    : block_tokens_(block_tokens),
      journal_(std::move(journal)),
      hash_(num_blocks),
      parent_(num_blocks),
      tokens_(std::size_t{num_blocks} * block_tokens),
      present_(num_blocks) {
  blocks_.reserve(num_blocks);
}

std::optional<block_id> prefix_index::find(const hash128_t& hash, const hash128_t& parent,
                                           std::span<const token_id> tokens) const {
  const auto at = blocks_.find(hash);
  if (at == blocks_.end() || parent_[at->second] != parent ||
      !std::ranges::equal(tokens_of(at->second), tokens))
    return std::nullopt;
  return at->second;
}

bool prefix_index::by_place::before(const place& a, const place& b) {
  if (a.parent != b.parent) return a.parent < b.parent;
  return std::ranges::lexicographical_compare(a.tokens, b.tokens);
}

prefix_index::partial_hit prefix_index::find_partial(const hash128_t& parent,
                                                     std::span<const token_id> tokens) const {
  partial_hit best;
  const auto compare = [&](block_id b) {
    if (parent_[b] != parent) return;
    const auto end = std::ranges::mismatch(tokens, tokens_of(b)).in1;
    const auto same = static_cast<std::uint32_t>(end - tokens.begin());
    if (same > best.tokens) best = {b, same};
  };
  const auto next = ordered_.lower_bound(place{parent, tokens});
  if (next != ordered_.end()) compare(*next);
  if (next != ordered_.begin()) compare(*std::prev(next));
  return best;
}

bool prefix_index::insert(const hash128_t& hash, const hash128_t& parent,
                          std::span<const token_id> tokens, block_id block) {
  TROUPE_ASSERT(!present_[block] && tokens.size() == block_tokens_);
  if (!blocks_.try_emplace(hash, block).second) return false;
  hash_[block] = hash;
  parent_[block] = parent;
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + std::ptrdiff_t{block} * block_tokens_);
  present_[block] = true;
  ordered_.insert(block);
  if (journal_) journal_->stored(hash);
  return true;
}

void prefix_index::erase(block_id block) {
  TROUPE_ASSERT(present_[block]);
  blocks_.erase(hash_[block]);
  ordered_.erase(block);
  present_[block] = false;
  if (journal_) journal_->removed(hash_[block]);
}

bool prefix_index::consistent() const {
  const auto count = std::count(present_.begin(), present_.end(), true);
  return static_cast<std::size_t>(count) == blocks_.size() && ordered_.size() == blocks_.size() &&
         std::ranges::all_of(blocks_, [&](const auto& entry) {
           return present_[entry.second] && hash_[entry.second] == entry.first;
         });
}

}  // namespace troupe::engine
