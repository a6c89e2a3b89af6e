// Pinned host memory in slots, through which blocks go that a device cannot copy directly: a slot holds one block at a
// time, and many slots make the pipeline. Made when the first block needs it, given back after a rest. Owner and thread: one
// progress thread, whose time is a parameter.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "transport/device_memory.hpp"
#include "transport/fabric.hpp"

namespace troupe::transport {

class staging {
 public:
  // `device` may be null: then nothing can be taken.
  staging(device_memory* device, std::size_t bytes, std::chrono::milliseconds rest)
      : device_(device), bytes_(bytes), rest_(rest) {}
  ~staging();
  staging(const staging&) = delete;
  staging& operator=(const staging&) = delete;

  // ec::queue_full: every slot is taken, try again when one came back; ec::out_of_memory: it does not fit, ever.
  // Slots are as large as the first block asked for, larger ones wait until all came back; then much smaller ones make
  // smaller slots, too.
  // `held`: slots that the same peer has already. It gets another only while more are free than it holds, so the first
  // can have half of all, the next a quarter, and a few that have stopped never keep the last slot from others.
  result<std::byte*> take(std::size_t bytes, std::size_t held);
  void give_back(std::byte* slot);
  std::size_t taken() const { return taken_; }

  // Gives the memory back to the system when no slot was taken for some time.
  void rest(time_point now);
  // When rest() will have something to do.
  std::optional<time_point> rests_at() const;

 private:
  result<void> cut(std::size_t slot_bytes);

  device_memory* const device_;
  const std::size_t bytes_;
  const std::chrono::milliseconds rest_;
  std::span<std::byte> memory_;
  std::size_t slot_bytes_ = 0, taken_ = 0;
  std::vector<std::byte*> free_;
  std::optional<time_point> idle_since_;  // with memory and no slot taken
};

}  // namespace troupe::transport
