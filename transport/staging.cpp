#include "transport/staging.hpp"

#include <string>

namespace troupe::transport {

staging::~staging() {
  TROUPE_ASSERT(taken_ == 0);
  if (!memory_.empty()) device_->free_pinned(memory_);
}

result<void> staging::cut(std::size_t slot_bytes) {
  if (device_ == nullptr) return fail(ec::unsupported, "this node has no device to stage for");
  if (slot_bytes > bytes_)
    return fail(ec::out_of_memory, "a block of " + std::to_string(slot_bytes) +
                                       " bytes does not fit the staging memory of " +
                                       std::to_string(bytes_));
  if (memory_.empty()) {
    TROUPE_TRY(memory_, device_->allocate_pinned(bytes_));
  }
  constexpr std::size_t page = 4096;
  slot_bytes_ = (slot_bytes + page - 1) / page * page;
  free_.clear();
  for (std::size_t at = 0; at + slot_bytes <= bytes_; at += slot_bytes_)
    free_.push_back(memory_.data() + at);
  return {};
}

result<std::byte*> staging::take(std::size_t bytes, std::size_t held) {
  if (bytes > slot_bytes_ && taken_ != 0 && bytes <= bytes_)
    return fail(ec::queue_full, "smaller blocks are staged now");
  if (bytes > slot_bytes_ || (taken_ == 0 && bytes <= slot_bytes_ / 2)) TROUPE_CHECK(cut(bytes));
  if (free_.empty() || (held > 0 && held >= free_.size()))
    return fail(ec::queue_full, "every staging slot is taken");
  std::byte* slot = free_.back();
  free_.pop_back();
  ++taken_;
  return slot;
}

void staging::give_back(std::byte* slot) {
  TROUPE_ASSERT(taken_ > 0);
  --taken_;
  free_.push_back(slot);
}

void staging::rest(time_point now) {
  if (memory_.empty() || taken_ != 0) return idle_since_.reset();
  if (!idle_since_) idle_since_ = now;
  if (now - *idle_since_ < rest_) return;
  device_->free_pinned(memory_);
  memory_ = {};
  slot_bytes_ = 0;
  free_.clear();
  idle_since_.reset();
}

std::optional<time_point> staging::rests_at() const {
  if (!idle_since_) return std::nullopt;
  return *idle_since_ + rest_;
}

}  // namespace troupe::transport
