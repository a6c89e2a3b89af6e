// The simulator's engine driver: the same queue and the same turn as the product's loop, but a turn is an event of
// virtual time. What a step brought about is handed out after the time that the step took.
#pragma once

#include "actors/engine_driver.hpp"
#include "tests/simulation/turns.hpp"

namespace troupe::simulation {

// What an engine's driver needs beside.
struct driver_context : turn_context {
  std::function<time_point(time_point)> to_local, to_true;  // a node's clock may be skewed
  std::function<void(const engine::step_report&)> told;  // what a turn brought about, for the trace
};

class stepped_engine final : public actors::engine_driver {
 public:
  stepped_engine(std::unique_ptr<engine::engine> e, hooks h, driver_context context)
      : engine_driver(std::move(e), std::move(h), default_queue_limit),
        context_(std::move(context)) {
    turns_.schedule(context_.now());
  }
  ~stepped_engine() override { stepped_engine::stop(); }

  void stop() override {
    turns_.end();
    set_stopping();
    std::lock_guard lock(mutex());
    set_ended();
  }
  engine::engine& looked_at() { return engine(); }
  // A delay beside what the step costs: a slow device, a busy machine.
  std::function<std::chrono::nanoseconds()> hiccup;

 private:
  void wake() override { turns_.wake(); }

  void run_turn() {
    auto report = turn([this] { return context_.to_local(context_.now()); });
    context_.turned();
    if (!turns_.alive() || !report) return turns_.end();
    context_.told(*report);
    const auto took = cost(*report);
    auto shared = std::make_shared<engine::step_report>(std::move(*report));
    turns_.take(
        took, [this, shared, took] { hand_out(std::move(*shared), took); }, [this] { next(); });
  }

  void next() {
    bool waits = false;
    {
      std::lock_guard lock(mutex());
      waits = idle() && !engine().has_work();
    }
    if (!waits) return turns_.schedule(context_.now());
    const auto bound = context_.now() + std::chrono::seconds(1);
    const auto local = engine().next_deadline();
    turns_.schedule(local >= context_.to_local(bound)
                        ? bound
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

  const driver_context context_;
  turns turns_{context_, [this] { run_turn(); }};
};

}  // namespace troupe::simulation
