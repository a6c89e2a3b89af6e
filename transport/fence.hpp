// The fence: 64 bytes after a KV block's payload that say whose block it is, which contents it
// holds and what they sum up to. The owner invalidates it before it writes into the block and seals
// it afterwards; a reader pulls payload and fence together and verifies ITS copy, so that nothing
// the owner does later can matter.
//
// Why it catches every interleaving: a reader that overlaps a writer sees either the invalid state,
// or another generation, or a payload that is not the one summed. The order of the owner's stores
// (seqlock: invalidate before the first byte, seal after the last) only makes the first two the
// common case; the checksum covers the rest, since a pull gives no promise about the order in which
// bytes travel.
//
// One writer a block (its owner); any number of readers, each on its own copy. Any thread. All
// integers are little endian. The functions over blocks are for host memory; a device computes the same sum itself and
// puts it into the image that encode_fence() made (device_memory.hpp).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::transport {

inline constexpr std::size_t fence_bytes = 64;

// What the owner promises about a block, and what travels in messages beside its place. A reader
// expects exactly this: a tag that differs in any field is another block.
struct block_tag {
  incarnation owner{};  // the node that wrote it
  std::uint64_t generation =
      0;                     // counts the block's lives in its owner's arena; never 0 when sealed
  std::uint64_t layout = 0;  // hash of everything that gives the bytes a meaning (the KV identity)
  std::uint32_t valid_tokens = 0;  // how many of the block's tokens are filled
  friend bool operator==(const block_tag&, const block_tag&) = default;
};

using fence_image = std::array<std::byte, fence_bytes>;

// The fence's bytes for a payload of that sum. The image checks itself: any flipped bit is found.
fence_image encode_fence(const block_tag& tag, std::uint64_t payload_checksum);

// Where a device puts its sum into an image: 64-bit words of the payload's sum and of the fence's own, which is
// checksum64 over the words before it; and the first word's value while a block is written.
inline constexpr std::size_t fence_payload_sum_word = 4, fence_self_sum_word = 7;
inline constexpr std::uint64_t fence_invalid_mark = 0x00000000'45505254;

// Compares a fence with what was promised and returns the payload's checksum that it states.
// ec::fence_mismatch names the field that differs and both values.
result<std::uint64_t> check_fence(std::span<const std::byte, fence_bytes> fence,
                                  const block_tag& expected);

// The same, and the payload's sum with the one that the fence states.
result<void> verify_fence(std::span<const std::byte, fence_bytes> fence, const block_tag& expected,
                          std::uint64_t payload_checksum);

// The functions below take a whole block: payload, then fence.
// REQUIRES: block.size() >= fence_bytes, block.data() aligned to 8.

// Owner, before the first write into the payload. No pull that begins later can verify.
void invalidate(std::span<std::byte> block);

// Owner, after the last write.  Returns the payload's checksum.
std::uint64_t seal(std::span<std::byte> block, const block_tag& tag);

// Reader, on its own copy. The second form is for a caller that already has the sum of the copy's
// payload, because the pull computed it on the way (pull_request::checksum).
result<void> verify(std::span<const std::byte> block, const block_tag& expected);
result<void> verify(std::span<const std::byte> block, const block_tag& expected,
                    std::uint64_t payload_checksum);

// The sum used by fences: XXH3, 64 bits, seed 0, whatever instruction set computes it.
std::uint64_t payload_checksum(std::span<const std::byte> payload);

}  // namespace troupe::transport
