// What drives an engine: a bounded queue of commands, a step after each drain, and hooks that hear what happened. How
// the steps come about is the heir's: engine_loop owns a thread, the simulator steps in virtual time.
//
// Messages only fill the queue; every step drains it.
// Threads: post, post_completion and stats from any thread; hooks are called where the steps run and must not block.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/engine.hpp"

namespace troupe::actors {

class engine_driver {
 public:
  using command = std::function<void(engine::engine&, engine::time_point now)>;
  struct hooks {
    std::function<void(engine::events&&)> on_events;
    std::function<void(const engine::step_report&, std::chrono::nanoseconds)> on_step;
    std::function<void(const error&)> on_failure;  // the device is gone: there are no more steps
  };
  static constexpr std::size_t default_queue_limit = 8192;

  virtual ~engine_driver() = default;  // heirs stop
  engine_driver(const engine_driver&) = delete;
  engine_driver& operator=(const engine_driver&) = delete;

  // Runs `c` between two steps. ec::queue_full: the engine cannot keep up; ec::draining: it has ended.
  result<void> post(command c);
  // The same for completions, whose number is bounded by what was started: never refused while the engine lives.
  void post_completion(command c);

  engine::engine_stats stats() const;  // as of the last step
  virtual void stop() = 0;             // after the step under way; idempotent

 protected:
  engine_driver(std::unique_ptr<engine::engine> engine, hooks h, std::size_t queue_limit);
  virtual void wake() = 0;  // a command was posted, or the end was asked for

  engine::engine& engine() { return *engine_; }
  bool idle() const { return queue_.empty(); }  // REQUIRES: mutex()
  std::mutex& mutex() const { return mutex_; }
  void set_stopping();
  bool stopping() const { return stopping_; }  // REQUIRES: mutex()
  void set_ended();                            // REQUIRES: mutex()
  // Commands, then a step; nullopt: the device is gone, on_failure was called and this was the last turn.
  std::optional<engine::step_report> turn(const std::function<engine::time_point()>& now);
  void hand_out(engine::step_report&& report, std::chrono::nanoseconds duration);

 private:
  const std::unique_ptr<engine::engine> engine_;
  const hooks hooks_;
  const std::size_t queue_limit_;
  mutable std::mutex mutex_;
  std::vector<command> queue_;
  engine::engine_stats stats_;
  bool stopping_ = false, ended_ = false;
};

}  // namespace troupe::actors
