// Requests that were running when a decode node died, by what they ask (prompt and salt): after two deaths such a
// request is refused for a while, so that one input cannot take down one node after the other; an answer that came to
// its end clears it. Bounded; the oldest entry is forgotten. Owner: the gateway actor. Not thread-safe; the time is a parameter.
#pragma once

#include <chrono>
#include <map>
#include <string_view>

#include "actors/messages.hpp"
#include "base/hash.hpp"

namespace troupe::actors {

class poison_list {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  static constexpr std::uint32_t max_deaths = 2;
  static constexpr std::size_t max_entries = 1024;
  static constexpr std::chrono::minutes memory{10};
  static constexpr std::string_view explanation =
      "two workers died while they served this very request: it is not tried again for some "
      "minutes. Please report it.";

  static hash128_t identity(const generate_request& r);
  void died(const hash128_t& request, time_point now);  // a node that ran it, however often
  void served(const generate_request& r) { suspects_.erase(identity(r)); }  // it is harmless
  bool refuses(const generate_request& r, time_point now) const;
  std::size_t size() const { return suspects_.size(); }

 private:
  struct suspect {
    std::uint32_t deaths = 0;
    time_point last;
  };
  std::map<hash128_t, suspect> suspects_;
};

}  // namespace troupe::actors
