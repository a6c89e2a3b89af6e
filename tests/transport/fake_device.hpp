// Host memory in the place of a GPU's: the same hook, with copies on a thread of its own, so that path choice, staging and
// failures are tested without a GPU. What it hands out as device memory is real memory of this process, and its
// shared form a memfd, so that other processes open it as they would by CUDA IPC.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "transport/checksum.hpp"
#include "transport/device_memory.hpp"
#include "transport/shared_memory.hpp"

namespace troupe::transport::testing {

struct fake_behaviour {
  bool shares = true;
  std::chrono::milliseconds delay{0};  // of each batch
  std::size_t lanes = 4;
};

class fake_device final : public device_memory {
 public:
  using behaviour = fake_behaviour;
  explicit fake_device(behaviour b = {}) : b_(b), thread_([this] { work(); }) {}
  ~fake_device() override {
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  std::span<std::byte> allocate(std::size_t bytes) {
    memory_ = shared_memory::make(bytes).value();
    return {memory_.data(), bytes};
  }
  // From here on copies are not made, and only poll() tells.
  void lose() { lost_ = true; }
  std::size_t pinned() const { return pinned_; }
  std::size_t batches() const { return batches_; }
  // Opening waits from here on, as CUDA does for large memory.
  void hold_opening() { holds_ = true; }
  void release_opening() {
    {
      std::lock_guard lock(mutex_);
      holds_ = false;
    }
    wake_.notify_all();
  }
  std::size_t opened() const { return num_opened_; }

  std::string description() const override { return "a fake device"; }
  std::size_t max_copies() const override { return 6; }
  result<std::string> share(std::byte* data, std::size_t bytes) override {
    if (!b_.shares) return fail(ec::unsupported, "this fake does not share");
    if (data != memory_.data() || bytes != memory_.bytes())
      return fail(ec::invalid_argument, "not the whole arena");
    const shared_name name = memory_.name();
    return std::string(reinterpret_cast<const char*>(&name), sizeof name);
  }
  result<const std::byte*> open(std::string_view text, std::size_t bytes) override {
    if (!b_.shares) return fail(ec::unsupported, "this fake opens nothing");
    shared_name name;
    if (text.size() != sizeof name) return fail(ec::invalid_argument, "no name");
    std::memcpy(&name, text.data(), sizeof name);
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return !holds_; });
    }
    TROUPE_TRY(auto opened, shared_memory::open(name, bytes));
    const std::byte* data = opened.data();
    opened_.emplace(data, std::move(opened));
    num_opened_ = opened_.size();
    return data;
  }
  void close(const std::byte* opened) override {
    opened_.erase(opened);
    num_opened_ = opened_.size();
  }
  result<std::span<std::byte>> allocate_pinned(std::size_t bytes) override {
    pinned_ += bytes;
    return std::span<std::byte>(new std::byte[bytes], bytes);
  }
  void free_pinned(std::span<std::byte> memory) override {
    pinned_ -= memory.size();
    delete[] memory.data();
  }

  result<void> copy(device_batch batch) override {
    std::lock_guard lock(mutex_);
    if (queue_.size() + lost_batches_.size() >= b_.lanes)
      return fail(ec::queue_full, "every lane is taken");
    ++batches_;
    (lost_ ? lost_batches_ : queue_).push_back(std::move(batch));
    wake_.notify_all();
    return {};
  }
  void poll() override {
    std::deque<device_batch> ended;
    {
      std::lock_guard lock(mutex_);
      ended.swap(lost_batches_);
    }
    for (auto& b : ended)
      b.done({tl::unexpected(error{ec::device_lost, "the fake device is gone"}), {}, {}});
  }

  result<void> invalidate(std::span<const std::span<std::byte>> blocks) override {
    if (lost_) return fail(ec::device_lost, "the fake device is gone");
    for (auto b : blocks) transport::invalidate(b);
    return {};
  }
  result<void> copy_here(std::span<const device_copy> copies) override {
    if (lost_) return fail(ec::device_lost, "the fake device is gone");
    for (const auto& c : copies) std::memcpy(c.to, c.from, c.bytes);
    return {};
  }
  result<void> seal(std::span<const seal_order> orders) override {
    if (lost_) return fail(ec::device_lost, "the fake device is gone");
    for (const auto& o : orders) transport::seal(o.block, o.tag);
    return {};
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return ending_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const auto& front = queue_.front();
      lock.unlock();
      std::this_thread::sleep_for(b_.delay);
      device_done done;
      for (const auto& c : front.copies) {
        std::memcpy(c.to, c.from, c.bytes);
        if (!front.checksum) continue;
        done.checksums.push_back(checksum64({c.to, c.bytes - fence_bytes}));
        std::memcpy(done.fences.emplace_back().data(), c.to + c.bytes - fence_bytes, fence_bytes);
      }
      lock.lock();
      auto tell = std::move(queue_.front().done);
      queue_.pop_front();
      lock.unlock();
      tell(std::move(done));
      lock.lock();
    }
  }

  const behaviour b_;
  shared_memory memory_;
  std::map<const std::byte*, shared_memory> opened_;
  std::atomic<std::size_t> pinned_{0}, batches_{0};
  std::atomic<std::size_t> num_opened_{0};
  std::atomic<bool> lost_{false}, holds_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<device_batch> queue_, lost_batches_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace troupe::transport::testing
