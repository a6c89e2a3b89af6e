// What happens when, in virtual time. Events of one moment keep the order in which they were made.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <utility>

namespace troupe::simulation {

using time_point = std::chrono::steady_clock::time_point;

class event_queue {
 public:
  explicit event_queue(time_point start) : now_(start) {}

  time_point now() const { return now_; }
  void at(time_point t, std::function<void()> action) {
    events_.emplace(std::pair(std::max(t, now_), sequence_++), std::move(action));
  }
  void after(std::chrono::nanoseconds d, std::function<void()> action) {
    at(now_ + d, std::move(action));
  }
  std::optional<time_point> next() const {
    if (events_.empty()) return std::nullopt;
    return events_.begin()->first.first;
  }
  void move_clock(time_point t) { now_ = std::max(now_, t); }
  // Runs the next event if it is due. False: none is.
  bool run_one() {
    if (events_.empty() || events_.begin()->first.first > now_) return false;
    auto event = events_.extract(events_.begin());
    event.mapped()();
    return true;
  }
  void clear() { events_.clear(); }

 private:
  time_point now_;
  std::uint64_t sequence_ = 0;
  std::map<std::pair<time_point, std::uint64_t>, std::function<void()>> events_;
};

}  // namespace troupe::simulation
