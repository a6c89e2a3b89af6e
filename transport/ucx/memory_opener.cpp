#include "transport/ucx/memory_opener.hpp"

#include <utility>

namespace troupe::transport::ucx {

memory_opener::memory_opener(std::shared_ptr<device_memory> device)
    : device_(std::move(device)), thread_([this] { work(); }) {}

memory_opener::~memory_opener() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void memory_opener::open(std::string name, std::size_t bytes, opened done) {
  add({std::move(name), bytes, std::move(done), nullptr});
}

void memory_opener::close(const std::byte* memory) {
  add({{}, 0, nullptr, memory});
}

void memory_opener::add(job j) {
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(j));
  }
  wake_.notify_one();
}

void memory_opener::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const job now = std::move(jobs_.front());
    jobs_.pop_front();
    const bool skips = ending_ && now.done != nullptr;
    lock.unlock();
    if (now.done == nullptr)
      device_->close(now.memory);
    else if (!skips)
      now.done(device_->open(now.name, now.bytes));
    lock.lock();
  }
}

}  // namespace troupe::transport::ucx
