#include "actors/engine_loop.hpp"

#include <pthread.h>

namespace troupe::actors {

engine_loop::engine_loop(std::unique_ptr<engine::engine> engine, hooks h, std::size_t queue_limit)
    : engine_driver(std::move(engine), std::move(h), queue_limit) {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "engine");
}

engine_loop::~engine_loop() {
  engine_loop::stop();
}

void engine_loop::stop() {
  set_stopping();
  if (thread_.joinable()) thread_.join();
}

void engine_loop::run() {
  for (;;) {
    {
      std::unique_lock lock(mutex());
      if (!engine().has_work()) {
        // A bound of its own, so that a deadline computed wrongly can delay a watchdog but never disable it.
        auto until =
            std::min(engine().next_deadline(), engine::clock::now() + std::chrono::seconds(1));
        wake_.wait_until(lock, until, [this] { return stopping() || !idle(); });
      }
      if (stopping()) return set_ended();
    }
    const auto begin = engine::clock::now();
    auto report = turn(engine::clock::now);
    if (!report) return;
    hand_out(std::move(*report), engine::clock::now() - begin);
  }
}

}  // namespace troupe::actors
