// What other threads leave for the progress thread while pulls are under way: the ends of a device's batches. Outlives
// the fabric if a device never tells. Private to transport/ucx; put from any thread, take by the progress thread.
#pragma once

#include <unistd.h>

#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace troupe::transport::ucx {

class inbox {
 public:
  using item = std::function<void()>;

  // `wake_fd`: an eventfd; a duplicate is kept.
  explicit inbox(int wake_fd) : wake_fd_(::dup(wake_fd)) {}
  ~inbox() {
    if (wake_fd_ >= 0) ::close(wake_fd_);
  }
  // False: no file descriptor was left, so nobody would be woken.
  bool wakes() const { return wake_fd_ >= 0; }
  inbox(const inbox&) = delete;
  inbox& operator=(const inbox&) = delete;

  void put(item what) {
    {
      std::lock_guard lock(mutex_);
      items_.push_back(std::move(what));
    }
    std::uint64_t one = 1;
    [[maybe_unused]] auto written = ::write(wake_fd_, &one, sizeof one);
  }
  std::vector<item> take() {
    std::lock_guard lock(mutex_);
    return std::exchange(items_, {});
  }

 private:
  const int wake_fd_;
  std::mutex mutex_;
  std::vector<item> items_;
};

}  // namespace troupe::transport::ucx
