// SIGTERM and SIGINT as things to ask for, instead of handlers: the first one drains, the second one stops.
// Make it in the main thread before any other thread starts, so that all of them inherit the mask.
#pragma once

#include <chrono>

namespace troupe::api {

class stop_signals {
 public:
  stop_signals();

  // Waits at most so long; true if a signal came.
  bool wait(std::chrono::milliseconds time);

  // Taking everything down must not hang either: from now on another signal, or the end of the time, ends the process
  // with this code. Child processes die with it.
  void end_within(std::chrono::milliseconds limit, int exit_code);
};

}  // namespace troupe::api
