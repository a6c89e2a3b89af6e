// What drives an engine, or the engine of a draft: a bounded queue of commands, a step after each drain, and hooks that
// hear what it brought about. How the steps come about is the heir's: driver_loop owns a thread, the simulator steps in
// virtual time.
//
// Messages only fill the queue; every step drains it.
// Threads: post, post_completion, stats and stop from any thread; commands and hooks are called where the steps run and
// must not block.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/draft_engine.hpp"
#include "engine/engine.hpp"

namespace troupe::actors {

// Machine: what is driven. Outcome: of one of its steps.
template <class Machine, class Outcome>
class driver {
 public:
  using machine = Machine;
  using outcome = Outcome;
  using statistics = decltype(std::declval<const Machine&>().stats());
  using command = std::function<void(Machine&, engine::time_point now)>;
  struct hooks {
    std::function<void(Outcome&&, std::chrono::nanoseconds)> on_step;  // and how long it took
    std::function<void(const error&)> on_failure;  // the device is gone: there are no more steps
  };
  static constexpr std::size_t default_queue_limit = 8192;

  virtual ~driver() = default;  // heirs stop
  driver(const driver&) = delete;
  driver& operator=(const driver&) = delete;

  // Runs `c` between two steps. ec::queue_full: the engine cannot keep up; ec::draining: it has ended.
  result<void> post(command c);
  // The same for completions, whose number is bounded by what was started: never refused while the engine lives.
  void post_completion(command c);

  statistics stats() const;  // as of the last step
  virtual void stop() = 0;   // after the step under way; idempotent

 protected:
  driver(std::unique_ptr<Machine> driven, hooks h, std::size_t queue_limit);
  virtual void wake() = 0;  // a command was posted, or the end was asked for

  Machine& driven() { return *driven_; }
  // Until when it may sleep while there is neither a command nor work: a bound of its own, so that a deadline that is
  // computed wrongly can delay a watchdog but never disable it.
  engine::time_point sleeps_until(engine::time_point now) const;
  bool idle() const { return queue_.empty(); }  // REQUIRES: mutex()
  std::mutex& mutex() const { return mutex_; }
  void set_stopping();
  bool stopping() const { return stopping_; }  // REQUIRES: mutex()
  void set_ended() { ended_ = true; }          // REQUIRES: mutex()
  // Commands, then a step; nullopt: the device is gone, on_failure was called and this was the last turn.
  std::optional<Outcome> turn(const std::function<engine::time_point()>& now);
  void hand_out(Outcome&& o, std::chrono::nanoseconds took) { hooks_.on_step(std::move(o), took); }

 private:
  const std::unique_ptr<Machine> driven_;
  const hooks hooks_;
  const std::size_t queue_limit_;
  mutable std::mutex mutex_;
  std::vector<command> queue_;
  statistics stats_;
  bool stopping_ = false, ended_ = false;
};

using engine_driver = driver<engine::engine, engine::step_report>;
using draft_driver = driver<engine::draft_engine, std::vector<engine::draft_run>>;
extern template class driver<engine::engine, engine::step_report>;
extern template class driver<engine::draft_engine, std::vector<engine::draft_run>>;

}  // namespace troupe::actors
