#include "actors/driver_loop.hpp"

#include <pthread.h>

namespace troupe::actors {

template <class Driver>
driver_loop<Driver>::driver_loop(std::unique_ptr<typename Driver::machine> driven,
                                 typename Driver::hooks h, std::size_t queue_limit)
    : Driver(std::move(driven), std::move(h), queue_limit) {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(),
                     std::is_same_v<Driver, engine_driver> ? "engine" : "draft");
}

template <class Driver>
driver_loop<Driver>::~driver_loop() {
  driver_loop::stop();
}

template <class Driver>
void driver_loop<Driver>::stop() {
  this->set_stopping();
  if (thread_.joinable()) thread_.join();
}

template <class Driver>
void driver_loop<Driver>::run() {
  for (;;) {
    {
      std::unique_lock lock(this->mutex());
      if (!this->driven().has_work())
        wake_.wait_until(lock, this->sleeps_until(engine::clock::now()),
                         [this] { return this->stopping() || !this->idle(); });
      if (this->stopping()) return this->set_ended();
    }
    const auto begin = engine::clock::now();
    auto made = this->turn(engine::clock::now);
    if (!made) return;
    this->hand_out(std::move(*made), engine::clock::now() - begin);
  }
}

template class driver_loop<engine_driver>;
template class driver_loop<draft_driver>;

}  // namespace troupe::actors
