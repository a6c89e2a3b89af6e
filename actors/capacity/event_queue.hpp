// What happens when, in virtual time. Events of one moment keep the order in which they were made, so a run is one
// order. For capacity planning and for tests/simulation. One thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace troupe::actors {

class event_queue {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  explicit event_queue(time_point start) : now_(start) {}

  time_point now() const { return now_; }
  void at(time_point t, std::function<void()> action) {
    heap_.push_back({std::max(t, now_), sequence_++, std::move(action)});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }
  void after(std::chrono::nanoseconds d, std::function<void()> action) {
    at(now_ + d, std::move(action));
  }
  std::optional<time_point> next() const {
    if (heap_.empty()) return std::nullopt;
    return heap_.front().when;
  }
  void move_clock(time_point t) { now_ = std::max(now_, t); }
  // Runs the next event if it is due. False: none is.
  bool run_one() {
    if (heap_.empty() || heap_.front().when > now_) return false;
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const auto action = std::move(heap_.back().action);
    heap_.pop_back();
    action();
    return true;
  }
  void clear() { heap_.clear(); }

 private:
  struct event {
    time_point when;
    std::uint64_t sequence;
    std::function<void()> action;
  };
  static bool later(const event& a, const event& b) {
    return std::pair(a.when, a.sequence) > std::pair(b.when, b.sequence);
  }

  time_point now_;
  std::uint64_t sequence_ = 0;
  std::vector<event> heap_;
};

}  // namespace troupe::actors
