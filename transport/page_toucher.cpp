#include "transport/page_toucher.hpp"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace troupe::transport {
namespace {

// Of one call, which holds the lock on the process's mappings for a tenth of a millisecond.
constexpr std::size_t step = 128 * 1024;
// Less than this is not worth waking up for.
constexpr std::size_t least = 4 << 20;
constexpr int nice_value = 10;
constexpr int populate_write =
    23;  // MADV_POPULATE_WRITE, which Debian 12's headers have, others' not

}  // namespace

page_toucher::page_toucher(std::span<std::byte> arena, std::size_t ahead)
    : arena_(arena), ahead_(ahead), thread_([this] { run(); }) {}

page_toucher::~page_toucher() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wanted_.notify_one();
  thread_.join();
}

std::size_t page_toucher::target() const {
  return std::min(arena_.size(), used_.load() + ahead_);
}

void page_toucher::used(std::size_t bytes) {
  std::size_t before = used_.load();
  do {
    if (bytes <= before) return;
  } while (!used_.compare_exchange_weak(before, bytes));
  const std::size_t to = target(), made = touched_.load();
  if (stopped_ || to <= made || (to - made < least && to < arena_.size())) return;
  {
    // So that the thread is either before its look at `used_`, or asleep.
    std::lock_guard lock(mutex_);
  }
  wanted_.notify_one();
}

void page_toucher::run() {
  // A thread's own, on Linux. Refused only to those who are at 19 already.
  static_cast<void>(::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)),
                                  ::getpriority(PRIO_PROCESS, 0) + nice_value));
  std::unique_lock lock(mutex_);
  while (!closing_ && !stopped_ && touched_ < arena_.size()) {
    const std::size_t from = touched_, to = target();
    if (to <= from || (to - from < step && to < arena_.size())) {
      wanted_.wait(lock);
      continue;
    }
    lock.unlock();
    const std::size_t bytes = std::min(step, arena_.size() - from);
    if (::madvise(arena_.data() + from, bytes, populate_write) == 0)
      touched_ = from + bytes;
    else
      stopped_ = true;
    lock.lock();
  }
}

}  // namespace troupe::transport
