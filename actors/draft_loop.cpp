#include "actors/draft_loop.hpp"

#include <pthread.h>

namespace troupe::actors {

draft_loop::draft_loop(std::unique_ptr<engine::draft_engine> engine, hooks h)
    : engine_(std::move(engine)), hooks_(std::move(h)), stats_(engine_->stats()) {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "draft");
}

draft_loop::~draft_loop() {
  stop();
}

void draft_loop::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool draft_loop::post(command c) {
  {
    std::lock_guard lock(mutex_);
    if (ended_ || stopping_ || queue_.size() >= queue_limit) return false;
    queue_.push_back(std::move(c));
  }
  wake_.notify_one();
  return true;
}

engine::draft_stats draft_loop::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void draft_loop::run() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (!engine_->has_work()) wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) {
        ended_ = true;
        return;
      }
    }
    if (!turn()) return;
  }
}

// Commands, then a pass; false: the device is gone.
bool draft_loop::turn() {
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
  if (!runs) {
    hooks_.on_failure(runs.error());
    return false;
  }
  if (!runs->empty()) hooks_.on_runs(std::move(*runs));
  return true;
}

}  // namespace troupe::actors
