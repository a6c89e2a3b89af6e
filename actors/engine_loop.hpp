// The product's engine driver: one thread that drains commands, runs steps at its own pace and hands out what happened.
//
// The loop sleeps when there is neither a command nor work, and wakes by itself at the engine's next deadline, so
// leases and timeouts end whether or not new work arrives. Hooks are called on the loop's thread.
#pragma once

#include <condition_variable>
#include <thread>

#include "actors/engine_driver.hpp"

namespace troupe::actors {

class engine_loop final : public engine_driver {
 public:
  engine_loop(std::unique_ptr<engine::engine> engine, hooks h,
              std::size_t queue_limit = default_queue_limit);
  ~engine_loop() override;  // stops

  void stop() override;  // ends the thread after the step under way

 private:
  void wake() override { wake_.notify_one(); }
  void run();

  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace troupe::actors
