// The nodes that `troupe serve` runs as child processes: started together, restarted when they die, stopped together.
//
// A child is up once it has joined its cluster, however long that took. One that never came up and dies again and again is
// given up with its exit code; one that has been up is started again for ever, with growing pauses; one that refuses (wrong
// model, no device, no memory for it) or leaves cleanly is not restarted. Children die with the server, also when it is
// killed. One supervisor thread; any thread may call.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <functional>
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
  int max_early_deaths = 5;  // before it has come up, one after the other
  // Before the first new start, and twice as long each time.
  std::chrono::milliseconds first_pause{200}, longest_pause{30000};
  // Where nobody tells who has joined: one that lived for so long has been up.
  std::chrono::milliseconds up_after{30000};
};

// The incarnation under which a child of this name joined last; 0: none did. Null: nobody knows. Called on the supervisor's
// thread, and not after stop().
using last_joined = std::function<std::uint64_t(const std::string& name)>;

// A child that cannot start ends the server: something is wrong with what it was told. One that has been up, and then
// refuses again and again (its GPU is lost), is left out, and the others go on as long as a decode node is among them.
class children {
 public:
  children(std::vector<child_command> commands, last_joined joined, restart_policy policy = {});
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
    int early_deaths = 0;
    std::chrono::steady_clock::time_point started, restart_at;
    std::uint64_t before = 0;  // the incarnation that had joined when it was started
    bool given_up = false;
    bool up = false;      // this process
    bool was_up = false;  // one of its processes: the server does not end with it
  };
  void supervise();
  void spawn(child& c);
  void look_up(child& c) const;
  void reap(child& c, int status);
  void give_up(child& c, int status);

  const last_joined joined_;
  const restart_policy policy_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<child> children_;
  std::optional<error> failure_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace troupe::actors
