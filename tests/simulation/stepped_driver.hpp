// The simulator's driver: the same queue and the same turn as the product's loop, but a turn is an event of virtual time:
// soon after the driver is woken, and again when what the last turn brought about has been handed out, which is after
// the time that the turn took. One turn at a time; none once it has ended.
#pragma once

#include "actors/driver.hpp"
#include "tests/simulation/event_queue.hpp"
#include "tests/simulation/random.hpp"

namespace troupe::simulation {

// What a driver needs of its process.
struct turn_context {
  std::function<time_point()> now;                            // true time
  std::function<time_point(time_point)> to_local, to_true;    // a node's clock may be skewed
  std::function<void(time_point, std::function<void()>)> at;  // waits while the process is stopped
  random* chance = nullptr;
};

template <class Driver>
class stepped final : public Driver {
 public:
  using outcome = typename Driver::outcome;
  struct context : turn_context {
    std::function<void()> turned;                                  // after every turn: invariants
    std::function<void(const outcome&)> told;                      // for the trace; may be empty
    std::function<std::chrono::nanoseconds(const outcome&)> cost;  // the time that a turn takes
  };

  stepped(std::unique_ptr<typename Driver::machine> m, typename Driver::hooks h, context c)
      : Driver(std::move(m), std::move(h), Driver::default_queue_limit), context_(std::move(c)) {
    schedule(context_.now());
  }
  ~stepped() override { stepped::stop(); }

  void stop() override {
    *alive_ = false;
    this->set_stopping();
    std::lock_guard lock(this->mutex());
    this->set_ended();
  }
  typename Driver::machine& looked_at() { return this->driven(); }

 private:
  static constexpr std::chrono::nanoseconds min_wake{1'000}, max_wake{80'000};

  void wake() override {
    if (!busy_) schedule(context_.now() + context_.chance->between(min_wake, max_wake));
  }

  void schedule(time_point t) {
    if (!*alive_ || (scheduled_ && *scheduled_ <= t)) return;
    scheduled_ = t;
    context_.at(t, [this, alive = alive_, t] {
      if (!*alive || scheduled_ != t) return;
      scheduled_.reset();
      if (!busy_) run_turn();  // else what was posted meanwhile is found at the end of this turn
    });
  }

  void run_turn() {
    auto made = this->turn([this] { return context_.to_local(context_.now()); });
    context_.turned();
    if (!made) *alive_ = false;
    if (!*alive_) return;
    if (context_.told) context_.told(*made);
    const auto took = context_.cost(*made);
    busy_ = true;
    context_.at(context_.now() + took,
                [this, alive = alive_, took, o = std::make_shared<outcome>(std::move(*made))] {
                  if (!*alive) return;
                  busy_ = false;
                  this->hand_out(std::move(*o), took);  // may end this
                  if (*alive) next();
                });
  }

  void next() {
    const auto now = context_.now();
    bool waits = false;
    {
      std::lock_guard lock(this->mutex());
      waits = this->idle() && !this->driven().has_work();
    }
    schedule(!waits ? now
                    : std::max(now, context_.to_true(this->sleeps_until(context_.to_local(now)))));
  }

  const context context_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::optional<time_point> scheduled_;
  bool busy_ = false;
};

using stepped_engine = stepped<actors::engine_driver>;
using stepped_draft = stepped<actors::draft_driver>;

}  // namespace troupe::simulation
