// Opens and closes peers' device memory on a thread of its own. CUDA takes 7 ms for each gigabyte of it (H200, 60 GB: 430 ms), for
// which a progress thread would move nothing for anybody.
//
// Private to transport/ucx. Any thread may ask; one thing is done at a time, in the order of asking.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/result.hpp"
#include "transport/device_memory.hpp"

namespace troupe::transport::ucx {

class memory_opener {
 public:
  using opened = std::function<void(result<const std::byte*>)>;

  explicit memory_opener(std::shared_ptr<device_memory> device);
  // Waits for what is under way and does what else was asked for, but opens nothing any more.
  ~memory_opener();
  memory_opener(const memory_opener&) = delete;
  memory_opener& operator=(const memory_opener&) = delete;

  // `done` is called once, on this thread; if there is no time left for it, never.
  void open(std::string name, std::size_t bytes, opened done);
  void close(const std::byte* memory);

 private:
  struct job {
    std::string name;
    std::size_t bytes = 0;
    opened done;  // nullptr: close
    const std::byte* memory = nullptr;
  };
  void add(job j);
  void work();

  const std::shared_ptr<device_memory> device_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<job> jobs_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace troupe::transport::ucx
