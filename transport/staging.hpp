// Pinned host memory in slots, through which blocks go that a device cannot copy directly: a slot holds one block at a
// time, and many slots make the pipeline. Made when the first block needs it. Owner and thread: one progress thread.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "transport/device_memory.hpp"

namespace troupe::transport {

class staging {
 public:
  // `device` may be null: then nothing can be taken.
  staging(device_memory* device, std::size_t bytes) : device_(device), bytes_(bytes) {}
  ~staging();
  staging(const staging&) = delete;
  staging& operator=(const staging&) = delete;

  // ec::queue_full: every slot is taken, try again when one came back; ec::out_of_memory: it does not fit, ever.
  // Slots are as large as the first block asked for, larger ones wait until all came back.
  result<std::byte*> take(std::size_t bytes);
  void give_back(std::byte* slot);
  std::size_t taken() const { return taken_; }

 private:
  result<void> cut(std::size_t slot_bytes);

  device_memory* const device_;
  const std::size_t bytes_;
  std::span<std::byte> memory_;
  std::size_t slot_bytes_ = 0, taken_ = 0;
  std::vector<std::byte*> free_;
};

}  // namespace troupe::transport
