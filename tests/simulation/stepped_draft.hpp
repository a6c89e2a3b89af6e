// The simulator's driver of a draft engine: the same queue and the same turn as the product's loop, but a turn is an
// event of virtual time. What a pass guessed is handed out after the time that the pass took.
#pragma once

#include "actors/draft_driver.hpp"
#include "tests/simulation/event_queue.hpp"
#include "tests/simulation/random.hpp"

namespace troupe::simulation {

class stepped_draft final : public actors::draft_driver {
 public:
  // What it needs of its process.
  struct context {
    std::function<time_point()> now;
    std::function<void(time_point, std::function<void()>)>
        at;                                           // of the process: waits while it is stopped
    std::function<void()> turned;                     // after every turn: invariants
    std::function<std::chrono::nanoseconds()> delay;  // beside what a pass costs: a slow device
    random* chance = nullptr;
  };

  stepped_draft(std::unique_ptr<engine::draft_engine> e, hooks h, context c)
      : draft_driver(std::move(e), std::move(h)), context_(std::move(c)) {}
  ~stepped_draft() override { stepped_draft::stop(); }

  void stop() override {
    *alive_ = false;
    set_stopping();
  }
  engine::draft_engine& looked_at() { return engine(); }

 private:
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
    auto runs = turn();
    context_.turned();
    if (!*alive_ || !runs) {
      *alive_ = false;
      return;
    }
    busy_ = true;
    using std::chrono::microseconds;
    const auto took = microseconds(20 + context_.chance->below(40)) +
                      microseconds(10) * runs->size() + context_.delay();
    auto shared = std::make_shared<std::vector<engine::draft_run>>(std::move(*runs));
    context_.at(context_.now() + took, [this, alive = alive_, shared] {
      if (!*alive) return;
      busy_ = false;
      hand_out(std::move(*shared));
      if (*alive) next();
    });
  }

  void next() {
    {
      std::lock_guard lock(mutex());
      if (idle() && !engine().has_work()) return;
    }
    schedule(context_.now());
  }

  static constexpr std::chrono::nanoseconds min_wake{1'000}, max_wake{80'000};
  const context context_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::optional<time_point> scheduled_;
  bool busy_ = false;
};

}  // namespace troupe::simulation
