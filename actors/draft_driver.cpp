#include "actors/draft_driver.hpp"

namespace troupe::actors {

draft_driver::draft_driver(std::unique_ptr<engine::draft_engine> engine, hooks h)
    : engine_(std::move(engine)), hooks_(std::move(h)), stats_(engine_->stats()) {}

bool draft_driver::post(command c) {
  {
    std::lock_guard lock(mutex_);
    if (ended_ || stopping_ || queue_.size() >= queue_limit) return false;
    queue_.push_back(std::move(c));
  }
  wake();
  return true;
}

engine::draft_stats draft_driver::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void draft_driver::set_stopping() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
}

std::optional<std::vector<engine::draft_run>> draft_driver::turn() {
  std::vector<command> commands;
  {
    std::lock_guard lock(mutex_);
    commands.swap(queue_);
  }
  for (auto& c : commands) c(*engine_);
  auto runs = engine_->step();
  {
    std::lock_guard lock(mutex_);
    stats_ = engine_->stats();
    ended_ = ended_ || !runs;
  }
  if (runs) return std::move(*runs);
  hooks_.on_failure(runs.error());
  return std::nullopt;
}

void draft_driver::hand_out(std::vector<engine::draft_run>&& runs) {
  if (!runs.empty()) hooks_.on_runs(std::move(runs));
}

}  // namespace troupe::actors
