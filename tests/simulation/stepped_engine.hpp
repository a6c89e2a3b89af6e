// The simulator's engine driver: the same queue and the same turn as the product's loop, but a turn is an event of
// virtual time. What a step brought about is handed out after the time that the step took.
#pragma once

#include "actors/engine_driver.hpp"
#include "tests/simulation/event_queue.hpp"
#include "tests/simulation/random.hpp"

namespace troupe::simulation {

// What a driver needs of its process.
struct driver_context {
  std::function<time_point()> now;                          // true time
  std::function<time_point(time_point)> to_local, to_true;  // a node's clock may be skewed
  std::function<void(time_point, std::function<void()>)>
      at;                        // of the process: waits while it is stopped
  std::function<void()> turned;  // after every turn: invariants
  std::function<void(const engine::step_report&)> told;  // what a turn brought about, for the trace
  random* chance = nullptr;
};

class stepped_engine final : public actors::engine_driver {
 public:
  stepped_engine(std::unique_ptr<engine::engine> e, hooks h, driver_context context)
      : engine_driver(std::move(e), std::move(h), default_queue_limit),
        context_(std::move(context)) {
    schedule(context_.now());
  }
  ~stepped_engine() override { stepped_engine::stop(); }

  void stop() override {
    *alive_ = false;
    set_stopping();
    std::lock_guard lock(mutex());
    set_ended();
  }
  engine::engine& looked_at() { return engine(); }
  // A delay beside what the step costs: a slow device, a busy machine.
  std::function<std::chrono::nanoseconds()> hiccup;

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
    auto report = turn([this] { return context_.to_local(context_.now()); });
    context_.turned();
    if (!*alive_ || !report) {
      *alive_ = false;
      return;
    }
    context_.told(*report);
    busy_ = true;
    const auto took = cost(*report);
    auto shared = std::make_shared<engine::step_report>(std::move(*report));
    context_.at(context_.now() + took, [this, alive = alive_, shared, took] {
      if (!*alive) return;
      busy_ = false;
      hand_out(std::move(*shared), took);
      if (*alive) next();
    });
  }

  void next() {
    bool waits = false;
    {
      std::lock_guard lock(mutex());
      waits = idle() && !engine().has_work();
    }
    if (!waits) return schedule(context_.now());
    const auto bound = context_.now() + std::chrono::seconds(1);
    const auto local = engine().next_deadline();
    schedule(local >= context_.to_local(bound) ? bound
                                               : std::max(context_.now(), context_.to_true(local)));
  }

  std::chrono::nanoseconds cost(const engine::step_report& r) const {
    using namespace std::chrono;
    if (!r.worked) return microseconds(2);
    auto took =
        microseconds(300) + (r.prefill_rows + r.decode_rows + r.draft_rows) * microseconds(40);
    took += microseconds(context_.chance->below(static_cast<std::uint64_t>(took.count())));
    return hiccup ? took + hiccup() : nanoseconds(took);
  }

  static constexpr std::chrono::nanoseconds min_wake{1'000}, max_wake{80'000};
  const driver_context context_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::optional<time_point> scheduled_;
  bool busy_ = false;
};

}  // namespace troupe::simulation
