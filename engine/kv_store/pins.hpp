// Which places of a tier are pinned, and until when: at most half of them, so that the rest can come and go.
// Plain object; owner and thread: the tier's.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "engine/generation.hpp"

namespace troupe::engine {

class pin_table {
 public:
  // False: half of `places` are pinned already.
  bool set(std::uint32_t place, bool pinned, std::size_t places, time_point until) {
    if (!pinned) {
      unpin(place);
      return true;
    }
    if (!until_.contains(place) && 2 * (until_.size() + 1) > places) return false;
    until_[place] = until;
    return true;
  }
  void unpin(std::uint32_t place) { until_.erase(place); }
  bool pinned(std::uint32_t place) const { return until_.contains(place); }
  std::optional<time_point> until(std::uint32_t place) const {
    const auto at = until_.find(place);
    return at == until_.end() ? std::nullopt : std::optional(at->second);
  }
  void expire(time_point now) {
    std::erase_if(until_, [&](const auto& pin) { return pin.second <= now; });
  }
  std::uint32_t size() const { return static_cast<std::uint32_t>(until_.size()); }

 private:
  std::unordered_map<std::uint32_t, time_point> until_;
};

}  // namespace troupe::engine
