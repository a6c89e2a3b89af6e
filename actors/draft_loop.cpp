#include "actors/draft_loop.hpp"

#include <pthread.h>

namespace troupe::actors {

draft_loop::draft_loop(std::unique_ptr<engine::draft_engine> engine, hooks h)
    : draft_driver(std::move(engine), std::move(h)) {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "draft");
}

draft_loop::~draft_loop() {
  draft_loop::stop();
}

void draft_loop::stop() {
  set_stopping();
  if (thread_.joinable()) thread_.join();
}

void draft_loop::run() {
  for (;;) {
    {
      std::unique_lock lock(mutex());
      if (!engine().has_work()) wake_.wait(lock, [this] { return stopping() || !idle(); });
      if (stopping()) return;
    }
    auto runs = turn();
    if (!runs) return;
    hand_out(std::move(*runs));
  }
}

}  // namespace troupe::actors
