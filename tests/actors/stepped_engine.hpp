// An engine that makes a step when it is told to.
#pragma once

#include "actors/driver.hpp"

namespace troupe::actors {

class stepped_engine final : public engine_driver {
 public:
  stepped_engine(std::unique_ptr<engine::engine> e, hooks h)
      : engine_driver(std::move(e), std::move(h), default_queue_limit) {}
  void stop() override {}
  void step() {
    const auto now = [] { return engine::time_point(std::chrono::hours(1)); };
    if (auto report = turn(now)) hand_out(std::move(*report), {});
  }

 private:
  void wake() override {}
};

}  // namespace troupe::actors
