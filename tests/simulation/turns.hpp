// When a driver takes its turns, in virtual time: soon after it is woken, and again when what the last turn brought about has
// been handed out. One turn at a time; none once it has ended. For stepped_engine and stepped_draft.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "tests/simulation/event_queue.hpp"
#include "tests/simulation/random.hpp"

namespace troupe::simulation {

// What a driver's turns need of its process.
struct turn_context {
  std::function<time_point()> now;  // true time
  std::function<void(time_point, std::function<void()>)>
      at;                        // of the process: waits while it is stopped
  std::function<void()> turned;  // after every turn: invariants
  random* chance = nullptr;
};

class turns {
 public:
  turns(const turn_context& context, std::function<void()> run)
      : context_(context), run_(std::move(run)) {}
  turns(const turns&) = delete;
  turns& operator=(const turns&) = delete;

  bool alive() const { return *alive_; }
  void end() { *alive_ = false; }

  void wake() {
    if (!busy_) schedule(context_.now() + context_.chance->between(min_wake, max_wake));
  }
  void schedule(time_point t) {
    if (!*alive_ || (scheduled_ && *scheduled_ <= t)) return;
    scheduled_ = t;
    context_.at(t, [this, alive = alive_, t] {
      if (!*alive || scheduled_ != t) return;
      scheduled_.reset();
      if (!busy_) run_();  // else what was posted meanwhile is found at the end of this turn
    });
  }
  // The turn takes so long. `hand_out` may end the owner of this; `next` is called if it did not.
  void take(std::chrono::nanoseconds time, std::function<void()> hand_out,
            std::function<void()> next) {
    busy_ = true;
    context_.at(context_.now() + time,
                [this, alive = alive_, hand_out = std::move(hand_out), next = std::move(next)] {
                  if (!*alive) return;
                  busy_ = false;
                  hand_out();
                  if (*alive) next();
                });
  }

 private:
  static constexpr std::chrono::nanoseconds min_wake{1'000}, max_wake{80'000};
  const turn_context& context_;  // the owner's
  const std::function<void()> run_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::optional<time_point> scheduled_;
  bool busy_ = false;
};

}  // namespace troupe::simulation
