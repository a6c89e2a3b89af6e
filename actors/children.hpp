// What `troupe serve` and `troupe launch` run as child processes: started together, restarted when they die, stopped
// together.
//
// A child is up once it has joined its cluster (a server: once it is ready), however long that took: the cluster knows, or
// the child says so itself (report_up). One that never came up and dies again and again is given up with its exit code; one
// that has been up is started again for ever, at first at once, with growing pauses if it dies soon each time; one that
// refuses (wrong model, no device, no memory for it) or leaves cleanly is not restarted. Children die with their parent,
// also when that is killed. One supervisor thread; any thread may call.
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
  // "NAME=value", instead of what the parent has under that name: arguments can be read by every user of the host.
  std::vector<std::string> environment{};
};

struct restart_policy {
  int max_early_deaths = 5;  // before it has come up, one after the other: then it is given up
  // Soon after it had come up, one after the other: then there are pauses.
  int max_soon_deaths = 20;
  std::chrono::milliseconds soon{60'000};
  // Before the first new start, and twice as long each time.
  std::chrono::milliseconds first_pause{200}, longest_pause{30000};
};

// The incarnation under which a child of this name joined last; 0: none did. Null: nobody knows, and children report.
// Called on the supervisor's thread, and not after stop().
using last_joined = std::function<std::uint64_t(const std::string& name)>;

// Told on the supervisor's thread of each new start, and of who is not started again.
struct child_events {
  std::function<void(const std::string&name)> restarted, given_up;
};

// In a child: it is up. Only the first call says so, and only to a parent that wants to hear it.
void report_up();

// A child that cannot start ends the server: something is wrong with what it was told. One that has been up, and then
// refuses again and again (its GPU is lost), is left out, and the others go on as long as a decode node is among them.
class children {
 public:
  children(std::vector<child_command> commands, last_joined joined, restart_policy policy = {},
           child_events events = {});
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
    int report = -1;  // where it says that it is up
    int early_deaths = 0, soon_deaths = 0;
    std::chrono::steady_clock::time_point started, came_up, restart_at;
    std::uint64_t before = 0;  // the incarnation that had joined when it was started
    bool given_up = false;
    bool up = false;      // this process
    bool was_up = false;  // one of its processes: the server does not end with it
  };
  void supervise();
  void spawn(child& c);
  void look_up(child& c) const;
  static void forget_report(child& c);
  void reap(child& c, int status);
  void give_up(child& c, int status);

  const last_joined joined_;
  const restart_policy policy_;
  const child_events events_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<child> children_;
  std::optional<error> failure_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace troupe::actors
