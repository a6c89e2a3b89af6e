// One thread for the few calls that block (metrics of all nodes), so that they never hold up the doors.
// Bounded: a task too many is refused.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace troupe::api {

class background {
 public:
  explicit background(std::size_t max_waiting);
  ~background();  // waits for the running task, drops the others

  // Any thread. false: too many tasks wait.
  bool run(std::function<void()> task);

 private:
  void work();

  const std::size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace troupe::api
