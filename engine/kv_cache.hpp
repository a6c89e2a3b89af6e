// Block tables of sequences over block_pool and prefix_index: who gets which block, what is shared,
// what is let go. Owner and thread: one engine.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/block_pool.hpp"
#include "engine/sequence.hpp"

namespace troupe::engine {

struct kv_cache_options {
  std::uint32_t num_blocks = 0;
  std::uint32_t block_tokens = 16;
  bool prefix_caching = true;
  hash128_t kv_identity;
  std::shared_ptr<prefix_journal> journal{};  // of what the prefix cache holds; may be null
};

class kv_cache {
 public:
  kv_cache(const kv_cache_options& options, block_sealer& sealer);

  // Gives an empty table blocks for all tokens of the sequence: those that are cached, then new
  // ones, of which `spare` more must be available. False: nothing was changed. With `remote` the
  // new ones are for pulls.
  bool admit(sequence& s, std::uint32_t spare);
  bool admit_remote(sequence& s, std::uint32_t spare);
  // Extends the table to cover all tokens. False: no block is available.
  bool grow(sequence& s);
  // Extends the table for drafts behind the sequence's tokens from blocks that nobody waits for; how
  // many of `wanted` it covers. After their pass trim() gives back what only rejected ones needed.
  std::uint32_t grow_for_drafts(sequence& s, std::uint32_t wanted);
  void trim(sequence& s) { truncate(s, blocks_for(s.num_tokens())); }
  // Blocks for a branch of guesses behind the sequence's last token, with the KV that its last block has. False: there are
  // none, or they cannot be copied here.
  bool fork(const sequence& s, draft_branch& b);
  // The branch was right about the first token behind those that are computed: the sequence goes on in its blocks.
  void adopt(sequence& s, draft_branch& b);
  void drop(draft_branch& b);
  bool can_fork() const { return sealer_.copies(); }
  // Seals blocks that num_computed has filled and makes them findable.
  void commit(sequence& s);
  // The sequence's last block will not be written any more, full or not.
  void seal_last(sequence& s);
  // Lets go of every block; those under a pull become quarantined. The sequence's KV is gone.
  void release(sequence& s);
  // A verified block of a remote prefill; table index `i`.
  void arrived(sequence& s, std::uint32_t i);
  // All of the context is here: the last, partial block is opened for the next tokens.
  void finish_remote(sequence& s);
  // Keeps the arrived blocks before the first gap that can stay sealed, lets go of the rest.
  void abandon_remote(sequence& s);

  // Called for each block that was computed here and that nothing here held before; its table index.
  void on_computed(std::function<void(const sequence&, std::uint32_t)> hook) {
    on_computed_ = std::move(hook);
  }

  std::uint32_t blocks_for(std::uint32_t tokens) const {
    return static_cast<std::uint32_t>((std::uint64_t{tokens} + block_tokens_ - 1) / block_tokens_);
  }
  std::uint32_t block_tokens() const { return block_tokens_; }
  block_pool& pool() { return pool_; }
  const block_pool& pool() const { return pool_; }
  std::uint64_t queried_tokens() const { return queried_tokens_; }
  std::uint64_t hit_tokens() const { return hit_tokens_; }

  // Blocks before the one that holds the sequence's last token: the last token must be computed for
  // its logits, so its block must stay writable.
  std::uint32_t reusable_blocks(const sequence& s) const {
    return (s.num_tokens() - 1) / block_tokens_;
  }

 private:
  bool admit_as(sequence& s, std::uint32_t spare, block_state to, std::uint32_t reusable);
  void add_hashes(sequence& s, std::uint32_t blocks);
  // The prefix that comes before the sequence's block i. REQUIRES: i hashes are there.
  hash128_t parent_of(const sequence& s, std::uint32_t i) const;
  // A reference to a block that begins as the one after the sequence's table goes on, if there is one
  // beside the `needed` blocks.
  prefix_index::partial_hit take_partial(const sequence& s, std::uint32_t needed);
  bool publish(sequence& s, std::uint32_t i);  // false: another block has this content
  void truncate(sequence& s, std::uint32_t blocks);

  std::uint32_t block_tokens_;
  bool prefix_caching_;
  hash128_t kv_identity_;
  block_sealer& sealer_;
  prefix_index index_;
  block_pool pool_;
  std::function<void(const sequence&, std::uint32_t)> on_computed_;
  std::vector<block_id> hits_;  // scratch
  std::uint64_t queried_tokens_ = 0, hit_tokens_ = 0;
};

}  // namespace troupe::engine
