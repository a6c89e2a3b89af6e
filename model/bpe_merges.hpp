// Byte-pair merges: repeatedly replaces the adjacent pair of lowest rank, leftmost first, by its
// merged token.
//
// Sennrich et al. 2016 (arXiv 1508.07909), in the byte-level form of GPT-2. O(n log n) in the
// length of a piece, so that a megabyte without a space is bounded too. Immutable after make, so
// any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.hpp"

namespace troupe::model {

class bpe_merges {
 public:
  struct rule {
    token_id left = 0, right = 0, merged = 0;
  };
  // Rank is the position in `rules`; of equal pairs the last counts.
  explicit bpe_merges(std::span<const rule> rules);

  // Merges `symbols` in place and shortens it to the result.
  void apply(std::vector<token_id>& symbols) const;

 private:
  static constexpr std::uint32_t no_rank = 0xFFFFFFFF;
  struct slot {
    token_id left = 0, right = 0;
    std::uint32_t rank = no_rank;  // no_rank: empty slot
    token_id merged = 0;
  };
  static std::size_t hash(token_id left, token_id right);
  const slot& find(token_id left, token_id right) const;  // rank no_rank: no rule
  void apply_short(std::vector<token_id>& symbols) const;
  void apply_long(std::vector<token_id>& symbols) const;

  std::vector<slot> slots_;  // open addressing, linear probing, at most half full
  std::size_t mask_ = 0;
};

}  // namespace troupe::model
