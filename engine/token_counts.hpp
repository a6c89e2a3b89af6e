// Which tokens a sequence holds and how often its output holds them: what penalties need, kept up
// token by token so that a step costs no pass over the text. One a sequence, only when a penalty is
// on.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/ids.hpp"

namespace troupe::engine {

class token_counts {
 public:
  struct entry {
    token_id token = 0;
    std::uint32_t in_output = 0;  // 0: in the prompt only
  };

  void add_prompt(std::span<const token_id> tokens) {
    for (token_id t : tokens) slot(t);
  }
  void add_output(token_id t) { ++slot(t).in_output; }
  std::span<const entry> entries() const { return entries_; }  // each token once
  // Of the token's entry; entries().size(): it has none.
  std::size_t index_of(token_id t) const {
    const auto at = where_.find(t);
    return at == where_.end() ? entries_.size() : at->second;
  }

 private:
  entry& slot(token_id t) {
    auto [at, is_new] = where_.try_emplace(t, entries_.size());
    if (is_new) entries_.push_back({t, 0});
    return entries_[at->second];
  }

  std::vector<entry> entries_;
  std::unordered_map<token_id, std::size_t> where_;
};

}  // namespace troupe::engine
