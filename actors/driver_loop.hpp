// The product's driver: one thread that drains commands, runs steps at its own pace and hands out what happened.
//
// The loop sleeps when there is neither a command nor work, and wakes by itself at the engine's next deadline, so
// leases and timeouts end whether or not new work arrives. Commands and hooks are called on the loop's thread.
#pragma once

#include <condition_variable>
#include <thread>

#include "actors/driver.hpp"

namespace troupe::actors {

template <class Driver>
class driver_loop final : public Driver {
 public:
  driver_loop(std::unique_ptr<typename Driver::machine> driven, typename Driver::hooks h,
              std::size_t queue_limit = Driver::default_queue_limit);
  ~driver_loop() override;  // stops

  void stop() override;  // ends the thread after the step under way

 private:
  void wake() override { wake_.notify_one(); }
  void run();

  std::condition_variable wake_;
  std::thread thread_;
};

using engine_loop = driver_loop<engine_driver>;
using draft_loop = driver_loop<draft_driver>;
extern template class driver_loop<engine_driver>;
extern template class driver_loop<draft_driver>;

}  // namespace troupe::actors
