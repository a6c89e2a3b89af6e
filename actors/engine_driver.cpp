#include "actors/engine_driver.hpp"

namespace troupe::actors {

engine_driver::engine_driver(std::unique_ptr<engine::engine> engine, hooks h,
                             std::size_t queue_limit)
    : engine_(std::move(engine)), hooks_(std::move(h)), queue_limit_(queue_limit) {
  stats_ = engine_->stats();
}

result<void> engine_driver::post(command c) {
  {
    std::lock_guard lock(mutex_);
    if (ended_ || stopping_) return fail(ec::draining, "the engine of this node has stopped");
    if (queue_.size() >= queue_limit_)
      return fail(ec::queue_full,
                  "the engine's command queue is full (" + std::to_string(queue_limit_) + ")");
    queue_.push_back(std::move(c));
  }
  wake();
  return {};
}

void engine_driver::post_completion(command c) {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    queue_.push_back(std::move(c));
  }
  wake();
}

engine::engine_stats engine_driver::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void engine_driver::set_stopping() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
}

void engine_driver::set_ended() {
  ended_ = true;
}

std::optional<engine::step_report> engine_driver::turn(
    const std::function<engine::time_point()>& now) {
  std::vector<command> commands;
  {
    std::lock_guard lock(mutex_);
    commands.swap(queue_);
  }
  for (auto& c : commands) c(*engine_, now());
  auto report = engine_->step(now());
  {
    std::lock_guard lock(mutex_);
    stats_ = engine_->stats();
    ended_ = ended_ || !report;
  }
  if (report) return std::move(*report);
  hooks_.on_failure(report.error());
  return std::nullopt;
}

void engine_driver::hand_out(engine::step_report&& report, std::chrono::nanoseconds duration) {
  if (report.worked) hooks_.on_step(report, duration);
  if (!report.happened.empty()) hooks_.on_events(std::move(report.happened));
}

}  // namespace troupe::actors
