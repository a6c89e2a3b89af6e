#include "api/stop_signals.hpp"

#include <csignal>
#include <ctime>

namespace troupe::api {
namespace {

sigset_t watched() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

stop_signals::stop_signals() {
  const sigset_t set = watched();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

bool stop_signals::wait(std::chrono::milliseconds time) {
  const sigset_t set = watched();
  timespec limit{};
  limit.tv_sec = static_cast<std::time_t>(time.count() / 1000);
  limit.tv_nsec = static_cast<long>(time.count() % 1000) * 1'000'000;
  return sigtimedwait(&set, nullptr, &limit) > 0;
}

}  // namespace troupe::api
