// The simulator's driver of a draft engine: the same queue and the same turn as the product's loop, but a turn is an
// event of virtual time. What a pass guessed is handed out after the time that the pass took.
#pragma once

#include "actors/draft_driver.hpp"
#include "tests/simulation/turns.hpp"

namespace troupe::simulation {

class stepped_draft final : public actors::draft_driver {
 public:
  struct context : turn_context {
    std::function<std::chrono::nanoseconds()> delay;  // beside what a pass costs: a slow device
  };

  stepped_draft(std::unique_ptr<engine::draft_engine> e, hooks h, context c)
      : draft_driver(std::move(e), std::move(h)), context_(std::move(c)) {}
  ~stepped_draft() override { stepped_draft::stop(); }

  void stop() override {
    turns_.end();
    set_stopping();
  }
  engine::draft_engine& looked_at() { return engine(); }

 private:
  void wake() override { turns_.wake(); }

  void run_turn() {
    auto runs = turn();
    context_.turned();
    if (!turns_.alive() || !runs) return turns_.end();
    using std::chrono::microseconds;
    const auto took = microseconds(20 + context_.chance->below(40)) +
                      microseconds(10) * runs->size() + context_.delay();
    auto shared = std::make_shared<std::vector<engine::draft_run>>(std::move(*runs));
    turns_.take(
        took, [this, shared] { hand_out(std::move(*shared)); }, [this] { next(); });
  }

  void next() {
    {
      std::lock_guard lock(mutex());
      if (idle() && !engine().has_work()) return;
    }
    turns_.schedule(context_.now());
  }

  const context context_;
  turns turns_{context_, [this] { run_turn(); }};
};

}  // namespace troupe::simulation
