#include "actors/engine_loop.hpp"

#include <pthread.h>

namespace troupe::actors {

engine_loop::engine_loop(std::unique_ptr<engine::engine> engine, hooks h, std::size_t queue_limit)
    : engine_(std::move(engine)), hooks_(std::move(h)), queue_limit_(queue_limit) {
  stats_ = engine_->stats();
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "engine");
}

engine_loop::~engine_loop() {
  stop();
}

void engine_loop::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

result<void> engine_loop::post(command c) {
  {
    std::lock_guard lock(mutex_);
    if (ended_ || stopping_) return fail(ec::draining, "the engine of this node has stopped");
    if (queue_.size() >= queue_limit_)
      return fail(ec::queue_full,
                  "the engine's command queue is full (" + std::to_string(queue_limit_) + ")");
    queue_.push_back(std::move(c));
  }
  wake_.notify_one();
  return {};
}

void engine_loop::post_completion(command c) {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    queue_.push_back(std::move(c));
  }
  wake_.notify_one();
}

engine::engine_stats engine_loop::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void engine_loop::run() {
  std::vector<command> commands;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      auto ready = [this] { return stopping_ || !queue_.empty(); };
      if (!engine_->has_work()) {
        // A bound of its own, so that a deadline computed wrongly can delay a watchdog but never disable it.
        auto until =
            std::min(engine_->next_deadline(), engine::clock::now() + std::chrono::seconds(1));
        wake_.wait_until(lock, until, ready);
      }
      if (stopping_) {
        ended_ = true;
        return;
      }
      commands.swap(queue_);
    }
    for (auto& c : commands) c(*engine_, engine::clock::now());
    commands.clear();

    const auto begin = engine::clock::now();
    auto report = engine_->step(begin);
    const auto duration = engine::clock::now() - begin;
    {
      std::lock_guard lock(mutex_);
      stats_ = engine_->stats();
      ended_ = !report;
    }
    if (!report) {
      hooks_.on_failure(report.error());
      return;
    }
    if (report->worked) hooks_.on_step(*report, duration);
    if (!report->happened.empty()) hooks_.on_events(std::move(report->happened));
  }
}

}  // namespace troupe::actors
