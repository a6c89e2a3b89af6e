// Which tokens a sequence holds and how often its output holds them: what penalties need, kept up
// token by token so that a step costs no pass over the text. One a sequence, only when a penalty is
// on.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/ids.hpp"
#include "engine/generation.hpp"
#include "gpu/sampling.hpp"

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
  void add_output(token_id t) {
    const std::size_t at = slot(t);
    ++entries_[at].in_output;
    changed_.push_back(at);
  }
  std::span<const entry> entries() const { return entries_; }  // each token once
  // Of the token's entry; entries().size(): it has none.
  std::size_t index_of(token_id t) const {
    const auto at = where_.find(t);
    return at == where_.end() ? entries_.size() : at->second;
  }

  static gpu::logit_edit penalty(token_id token, std::size_t in_output, const sampling_params& p) {
    const float minus = p.frequency_penalty * static_cast<float>(in_output) + p.presence_penalty;
    return {token, 0, p.repetition_penalty, in_output > 0 ? minus : 0};
  }
  // Of each entry, in their order. Valid until the next call that adds a token or has other parameters.
  std::span<const gpu::logit_edit> penalties(const sampling_params& p) const {
    const std::array wanted{p.repetition_penalty, p.frequency_penalty, p.presence_penalty};
    if (wanted != penalties_for_) penalties_.clear();
    penalties_for_ = wanted;
    for (std::size_t i = penalties_.size(); i < entries_.size(); ++i)
      penalties_.push_back(penalty(entries_[i].token, entries_[i].in_output, p));
    for (const std::size_t i : changed_)
      penalties_[i] = penalty(entries_[i].token, entries_[i].in_output, p);
    changed_.clear();
    return penalties_;
  }

 private:
  std::size_t slot(token_id t) {
    const auto [at, is_new] = where_.try_emplace(t, entries_.size());
    if (is_new) entries_.push_back({t, 0});
    return at->second;
  }

  std::vector<entry> entries_;
  std::unordered_map<token_id, std::size_t> where_;
  // What penalties() gave, and which entries have changed since.
  mutable std::array<float, 3> penalties_for_{};
  mutable std::vector<gpu::logit_edit> penalties_;
  mutable std::vector<std::size_t> changed_;
};

}  // namespace troupe::engine
