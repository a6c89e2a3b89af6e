// The shell around an engine: one thread that drains commands, runs steps at its own pace and hands out what happened.
//
// Messages only fill the queue; every step drains it. The loop sleeps when there is neither a command nor work, and
// wakes by itself at the engine's next deadline, so leases and timeouts end whether or not new work arrives.
// Threads: post and stats from any thread; hooks are called on the loop's thread and must not block.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/engine.hpp"

namespace troupe::actors {

class engine_loop {
 public:
  using command = std::function<void(engine::engine&, engine::time_point now)>;
  struct hooks {
    std::function<void(engine::events&&)> on_events;
    std::function<void(const engine::step_report&, std::chrono::nanoseconds)> on_step;
    std::function<void(const error&)> on_failure;  // the device is gone: the loop has ended
  };

  engine_loop(std::unique_ptr<engine::engine> engine, hooks h, std::size_t queue_limit = 8192);
  ~engine_loop();  // stops
  engine_loop(const engine_loop&) = delete;
  engine_loop& operator=(const engine_loop&) = delete;

  // Runs `c` between two steps. ec::queue_full: the engine cannot keep up, or has ended.
  result<void> post(command c);
  // The same for completions, whose number is bounded by what was started: never refused while the loop lives.
  void post_completion(command c);

  engine::engine_stats stats() const;  // as of the last step
  void stop();                         // ends the thread after the step under way; idempotent

 private:
  void run();

  std::unique_ptr<engine::engine> engine_;
  hooks hooks_;
  const std::size_t queue_limit_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<command> queue_;
  engine::engine_stats stats_;
  bool stopping_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace troupe::actors
