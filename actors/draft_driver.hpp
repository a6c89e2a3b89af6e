// What drives a draft engine: a bounded queue of commands, a pass after each drain, and hooks that hear what was guessed.
// How the passes come about is the heir's: draft_loop owns a thread, the simulator steps in virtual time.
//
// Threads: post, stats and stop from any thread; hooks and commands are called where the passes run and must not block.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/draft_engine.hpp"

namespace troupe::actors {

class draft_driver {
 public:
  using command = std::function<void(engine::draft_engine&)>;
  struct hooks {
    std::function<void(std::vector<engine::draft_run>&&)> on_runs;
    std::function<void(const error&)> on_failure;  // the device is gone: there are no more passes
  };
  static constexpr std::size_t queue_limit = 8192;

  virtual ~draft_driver() = default;  // heirs stop
  draft_driver(const draft_driver&) = delete;
  draft_driver& operator=(const draft_driver&) = delete;

  bool post(command c);  // false: full, or ended; what was to be told is found missing later
  engine::draft_stats stats() const;  // as of the last pass
  virtual void stop() = 0;            // after the pass under way; idempotent

 protected:
  draft_driver(std::unique_ptr<engine::draft_engine> engine, hooks h);
  virtual void wake() = 0;  // a command was posted, or the end was asked for

  engine::draft_engine& engine() { return *engine_; }
  std::mutex& mutex() const { return mutex_; }
  bool idle() const { return queue_.empty(); }  // REQUIRES: mutex()
  bool stopping() const { return stopping_; }   // REQUIRES: mutex()
  void set_stopping();
  // Commands, then a pass; nullopt: the device is gone, on_failure was called and this was the last turn.
  std::optional<std::vector<engine::draft_run>> turn();
  void hand_out(std::vector<engine::draft_run>&& runs);

 private:
  const std::unique_ptr<engine::draft_engine> engine_;
  const hooks hooks_;
  mutable std::mutex mutex_;
  std::vector<command> queue_;
  engine::draft_stats stats_;
  bool stopping_ = false, ended_ = false;
};

}  // namespace troupe::actors
