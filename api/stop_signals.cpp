#include "api/stop_signals.hpp"

#include <csignal>
#include <cstdlib>
#include <ctime>
#include <thread>

#include "base/log.hpp"

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

void stop_signals::end_within(std::chrono::milliseconds limit, int exit_code) {
  std::thread([limit, exit_code] {
    const bool asked = stop_signals().wait(limit);
    spdlog::warn("{}: leaving now", asked ? "another signal" : "stopping takes too long");
    spdlog::default_logger()->flush();
    std::_Exit(exit_code);
  }).detach();
}

}  // namespace troupe::api
