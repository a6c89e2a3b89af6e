// Writes fences (transport/fence.hpp) into the engine's arena. A hook, because the bytes may be in
// device memory that only the device can sum and seal, many blocks at a time. Owner and thread: one
// engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/hash.hpp"
#include "base/ids.hpp"
#include "transport/device_memory.hpp"
#include "transport/fence.hpp"

namespace troupe::engine {

class block_sealer {
 public:
  virtual ~block_sealer() = default;
  // Before the first write into a block's payload.
  virtual void invalidate(block_id block) = 0;
  // After the last one. When the next flush returns, a peer's pull of the block can verify.
  virtual void seal(block_id block, const transport::block_tag& tag) = 0;
  // The payload of a block, as it is now, into one that is being written. False: there is no way to copy.
  virtual bool copy(block_id, block_id) { return false; }
  virtual bool copies() const { return false; }
  // Before blocks are written by a pass or a pull, and before seals are announced.
  // ec::device_lost
  virtual result<void> flush() { return {}; }
};

class host_block_sealer final : public block_sealer {
 public:
  host_block_sealer(std::span<std::byte> arena, std::size_t block_bytes, std::size_t payload_bytes)
      : arena_(arena),
        block_bytes_(block_bytes),
        sealed_bytes_(payload_bytes + transport::fence_bytes) {}
  void invalidate(block_id block) override { transport::invalidate(bytes(block)); }
  void seal(block_id block, const transport::block_tag& tag) override {
    transport::seal(bytes(block), tag);
  }
  bool copies() const override { return true; }
  bool copy(block_id from, block_id to) override {
    std::memcpy(bytes(to).data(), bytes(from).data(), sealed_bytes_ - transport::fence_bytes);
    return true;
  }

 private:
  std::span<std::byte> bytes(block_id block) const {
    return arena_.subspan(block * block_bytes_, sealed_bytes_);
  }
  std::span<std::byte> arena_;
  std::size_t block_bytes_, sealed_bytes_;
};

// Collects what the engine asks for, so that the device does a step's blocks at once.
class device_block_sealer final : public block_sealer {
 public:
  device_block_sealer(std::shared_ptr<transport::device_memory> device, std::span<std::byte> arena,
                      std::size_t block_bytes, std::size_t payload_bytes)
      : device_(std::move(device)),
        arena_(arena),
        block_bytes_(block_bytes),
        sealed_bytes_(payload_bytes + transport::fence_bytes) {}
  void invalidate(block_id block) override { invalid_.push_back(bytes(block)); }
  void seal(block_id block, const transport::block_tag& tag) override {
    seals_.push_back({bytes(block), tag});
  }
  bool copies() const override { return true; }
  bool copy(block_id from, block_id to) override {
    copies_.push_back(
        {bytes(to).data(), bytes(from).data(), sealed_bytes_ - transport::fence_bytes});
    return true;
  }
  result<void> flush() override {
    if (!invalid_.empty()) TROUPE_CHECK(device_->invalidate(invalid_));
    invalid_.clear();
    if (!copies_.empty()) TROUPE_CHECK(device_->copy_here(copies_));
    copies_.clear();
    if (!seals_.empty()) TROUPE_CHECK(device_->seal(seals_));
    seals_.clear();
    return {};
  }

 private:
  std::span<std::byte> bytes(block_id block) const {
    return arena_.subspan(block * block_bytes_, sealed_bytes_);
  }
  const std::shared_ptr<transport::device_memory> device_;
  std::span<std::byte> arena_;
  std::size_t block_bytes_, sealed_bytes_;
  std::vector<std::span<std::byte>> invalid_;
  std::vector<transport::device_copy> copies_;
  std::vector<transport::seal_order> seals_;
};

// The layout field of fences: 64 bits of the KV identity, so that blocks of another model or layout
// never verify.
inline std::uint64_t fence_layout(const hash128_t& kv_identity) {
  return kv_identity.low ^ kv_identity.high;
}

}  // namespace troupe::engine
