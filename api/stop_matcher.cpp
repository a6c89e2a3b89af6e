#include "api/stop_matcher.hpp"

#include <algorithm>

#include "base/result.hpp"

namespace troupe::api {

stop_matcher::stop_matcher(std::vector<std::string> stops, bool include_stop)
    : include_stop_(include_stop) {
  for (auto& stop : stops) {
    TROUPE_ASSERT(!stop.empty());
    automaton a;
    a.fallback.assign(stop.size(), 0);
    for (std::uint32_t i = 1, k = 0; i < stop.size(); ++i) {
      while (k > 0 && stop[i] != stop[k]) k = a.fallback[k - 1];
      if (stop[i] == stop[k]) ++k;
      a.fallback[i] = k;
    }
    a.stop = std::move(stop);
    automata_.push_back(std::move(a));
  }
}

void stop_matcher::advance(automaton& a, char c) {
  while (a.state > 0 && a.stop[a.state] != c) a.state = a.fallback[a.state - 1];
  if (a.stop[a.state] == c) ++a.state;
}

std::string stop_matcher::push(std::string_view text) {
  if (matched_) return {};
  for (char c : text) {
    held_ += c;
    std::size_t longest = 0;
    for (auto& a : automata_) {
      advance(a, c);
      if (a.state == a.stop.size()) longest = std::max(longest, a.stop.size());
    }
    if (longest > 0) {
      matched_ = true;
      if (!include_stop_) held_.resize(held_.size() - longest);
      return std::exchange(held_, {});
    }
  }
  std::size_t keep = 0;
  for (const auto& a : automata_) keep = std::max<std::size_t>(keep, a.state);
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return certain;
}

std::string stop_matcher::flush() {
  return std::exchange(held_, {});
}

}  // namespace troupe::api
