// Content addresses of full KV blocks: h_i = H(h_{i-1}, tokens of block i), XXH3 128, seeded by the
// KV identity and the request's cache salt. The tokens of each block and the hash before it are kept and
// compared on a hit, so that a collision of the hash cannot hand out another text's KV. Blocks are also ordered by
// (prefix, tokens): of those that follow a prefix, the one that agrees longest with a text stands
// beside the text's place. Owner and thread: one engine.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/hash.hpp"
#include "base/ids.hpp"
#include "engine/prefix_journal.hpp"

namespace troupe::engine {

hash128_t root_hash(const hash128_t& kv_identity, std::string_view cache_salt);
hash128_t chain_hash(const hash128_t& parent, std::span<const token_id> tokens);

class prefix_index {
 public:
  // `journal`: hears what comes and goes; may be null.
  prefix_index(std::uint32_t num_blocks, std::uint32_t block_tokens,
               std::shared_ptr<prefix_journal> journal = nullptr);

  prefix_index(const prefix_index&) = delete;
  prefix_index& operator=(const prefix_index&) = delete;

  // The block that holds these tokens after that prefix.
  std::optional<block_id> find(const hash128_t& hash, const hash128_t& parent,
                               std::span<const token_id> tokens) const;
  // The block whose first tokens after the prefix agree longest with these, which may be fewer than a
  // block's, and how many do.
  struct partial_hit {
    block_id block = 0;
    std::uint32_t tokens = 0;  // 0: there is no such block
  };
  partial_hit find_partial(const hash128_t& parent, std::span<const token_id> tokens) const;
  // False: another block has this content already. `parent`: the hash of the prefix.
  bool insert(const hash128_t& hash, const hash128_t& parent, std::span<const token_id> tokens,
              block_id block);
  void erase(block_id block);  // REQUIRES: contains(block)
  bool contains(block_id block) const { return present_[block]; }
  std::size_t size() const { return blocks_.size(); }
  bool consistent() const;

 private:
  struct place {
    const hash128_t& parent;
    std::span<const token_id> tokens;
  };
  struct by_place {
    using is_transparent = void;
    const prefix_index* index;
    place of(block_id b) const { return {index->parent_[b], index->tokens_of(b)}; }
    static place of(const place& p) { return p; }
    bool operator()(const auto& a, const auto& b) const { return before(of(a), of(b)); }
    static bool before(const place& a, const place& b);
  };

  std::span<const token_id> tokens_of(block_id b) const {
    return {tokens_.data() + std::size_t{b} * block_tokens_, block_tokens_};
  }

  std::uint32_t block_tokens_;
  std::shared_ptr<prefix_journal> journal_;
  std::unordered_map<hash128_t, block_id> blocks_;
  std::vector<hash128_t> hash_, parent_;  // [num_blocks], where present
  std::vector<token_id> tokens_;          // [num_blocks][block_tokens]
  std::vector<bool> present_;             // [num_blocks]
  std::set<block_id, by_place> ordered_{by_place{this}};
};

}  // namespace troupe::engine
