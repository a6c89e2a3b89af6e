// Has the system make an arena's pages ahead of their first use. A page of shared memory that is written for the first time
// costs a fault of one to four microseconds, which holds pulls into a fresh arena at 1 GB/s where copying alone does 10.
// A thread of low priority makes the pages that follow the highest one in use, at most `ahead` bytes of them, so that
// memory stays that of what was used plus a constant.
//
// It uses MADV_POPULATE_WRITE (Linux 5.14), which changes no byte: a race with whoever writes there is none. Where the
// kernel has it not, or memory is short, nothing more is done here, and first uses pay as before.
//
// Owner: whoever has the arena, which must outlive it. used() from any thread; one thread of its own, which sleeps while
// there is nothing to make.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <span>
#include <thread>

namespace troupe::transport {

class page_toucher {
 public:
  // Begins at once with the arena's first bytes.
  page_toucher(std::span<std::byte> arena, std::size_t ahead);
  ~page_toucher();
  page_toucher(const page_toucher&) = delete;
  page_toucher& operator=(const page_toucher&) = delete;

  // Bytes from the arena's beginning on that are in use, or were; a smaller number than before changes nothing.
  void used(std::size_t bytes);
  std::size_t touched() const { return touched_; }  // pages are made up to here
  // No more will be made, whatever is used: the system refused.
  bool stopped() const { return stopped_; }

 private:
  std::size_t target() const;
  void run();

  const std::span<std::byte> arena_;
  const std::size_t ahead_;
  std::atomic<std::size_t> used_{0}, touched_{0};
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;  // guards the next, and sleeping on it
  bool closing_ = false;
  std::condition_variable wanted_;
  std::thread thread_;
};

}  // namespace troupe::transport
