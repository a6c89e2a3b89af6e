// The nodes that `troupe serve` runs as child processes: started together, restarted when they die, stopped together.
//
// A child that never came up and dies at once again and again is given up with its exit code; one that has run is started
// again for ever, with growing pauses; one that refuses (wrong model, no device) or leaves cleanly is not restarted. Children
// die with the server, also when it is killed. One supervisor thread; any thread may call.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/result.hpp"

namespace troupe::actors {

struct child_command {
  std::string name;
  std::string binary;
  std::vector<std::string> arguments;  // after the program's name
};

struct restart_policy {
  // A child that lives shorter has not really started. Short, so that nodes which are killed again and again while they
  // serve are started again at once.
  std::chrono::milliseconds quick{1000};
  int max_quick_deaths = 5;
  // Before the first new start, and twice as long each time.
  std::chrono::milliseconds first_pause{200}, longest_pause{30000};
};

// A child that cannot start ends the server: something is wrong with what it was told. One that has run, and then cannot
// start any more (its GPU is lost), is left out, and the others go on as long as a decode node is among them.
class children {
 public:
  explicit children(std::vector<child_command> commands, restart_policy policy = {});
  ~children();  // stops
  std::optional<error> failure() const;
  void terminate();  // SIGTERM to each: they drain
  void stop(std::chrono::milliseconds
                grace);  // SIGTERM, after `grace` SIGKILL; returns when all are gone
  bool all_gone() const;

 private:
  struct child {
    child_command command;
    pid_t pid = -1;
    int quick_deaths = 0;
    std::chrono::steady_clock::time_point started, restart_at;
    bool given_up = false;
    bool was_up = false;  // it has run for a while: the server does not end with it
  };
  void supervise();
  void spawn(child& c);
  void reap(child& c, int status);
  void give_up(child& c, int status);

  const restart_policy policy_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<child> children_;
  std::optional<error> failure_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace troupe::actors
