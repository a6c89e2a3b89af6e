#include "actors/poison_list.hpp"

#include <algorithm>
#include <span>

namespace troupe::actors {

hash128_t poison_list::identity(const generate_request& r) {
  hash128_stream h;
  h.update(std::as_bytes(std::span(r.prompt)));
  h.update(std::as_bytes(std::span(r.cache_salt)));
  return h.digest();
}

void poison_list::died(const hash128_t& id, time_point now) {
  auto at = suspects_.find(id);
  if (at == suspects_.end()) {
    std::erase_if(suspects_, [&](const auto& s) { return now - s.second.last > memory; });
    if (suspects_.size() >= max_entries)
      suspects_.erase(std::min_element(
          suspects_.begin(), suspects_.end(),
          [](const auto& a, const auto& b) { return a.second.last < b.second.last; }));
    at = suspects_.emplace(id, suspect{}).first;
  } else if (now - at->second.last > memory) {
    at->second.deaths = 0;
  }
  ++at->second.deaths;
  at->second.last = now;
}

bool poison_list::refuses(const generate_request& r, time_point now) const {
  const auto at = suspects_.find(identity(r));
  return at != suspects_.end() && at->second.deaths >= max_deaths &&
         now - at->second.last <= memory;
}

}  // namespace troupe::actors
