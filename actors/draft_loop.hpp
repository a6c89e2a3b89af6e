// What drives a draft engine: one thread, a bounded queue of commands, passes while there is something to guess.
//
// Messages only fill the queue; a pass follows each drain. The loop sleeps when there is neither a command nor work.
// Threads: post, stats and stop from any thread; hooks and commands are called on the loop's own and must not block.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/draft_engine.hpp"

namespace troupe::actors {

class draft_loop {
 public:
  using command = std::function<void(engine::draft_engine&)>;
  struct hooks {
    std::function<void(std::vector<engine::draft_run>&&)> on_runs;
    std::function<void(const error&)> on_failure;  // the device is gone: there are no more passes
  };
  static constexpr std::size_t queue_limit = 8192;

  draft_loop(std::unique_ptr<engine::draft_engine> engine, hooks h);
  ~draft_loop();  // stops

  bool post(command c);  // false: full, or ended; what was to be told is found missing later
  engine::draft_stats stats() const;  // as of the last pass
  void stop();                        // after the pass under way; idempotent

 private:
  void run();
  bool turn();

  const std::unique_ptr<engine::draft_engine> engine_;
  const hooks hooks_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<command> queue_;
  engine::draft_stats stats_;
  bool stopping_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace troupe::actors
