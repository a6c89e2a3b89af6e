// Writes fences (transport/fence.hpp) into the engine's arena. A hook, because the bytes may be in
// device memory that only the device can sum and seal. Owner and thread: one engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/hash.hpp"
#include "base/ids.hpp"
#include "transport/fence.hpp"

namespace troupe::engine {

class block_sealer {
 public:
  virtual ~block_sealer() = default;
  // Before the first write into a block's payload.
  virtual void invalidate(block_id block) = 0;
  // After the last one. When it returns, a peer's pull of the block can verify.
  virtual void seal(block_id block, const transport::block_tag& tag) = 0;
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

 private:
  std::span<std::byte> bytes(block_id block) const {
    return arena_.subspan(block * block_bytes_, sealed_bytes_);
  }
  std::span<std::byte> arena_;
  std::size_t block_bytes_, sealed_bytes_;
};

// The layout field of fences: 64 bits of the KV identity, so that blocks of another model or layout
// never verify.
inline std::uint64_t fence_layout(const hash128_t& kv_identity) {
  return kv_identity.low ^ kv_identity.high;
}

}  // namespace troupe::engine
