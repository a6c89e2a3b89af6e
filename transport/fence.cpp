#include "transport/fence.hpp"

#include <atomic>
#include <bit>
#include <cstdio>
#include <cstring>
#include <string>

#include "base/mutation.hpp"
#include "transport/checksum.hpp"

namespace troupe::transport {
namespace {

static_assert(std::endian::native == std::endian::little, "fences are little endian");

// "TRPE" in memory order, then the version of this format; the invalid state is all other values.
constexpr std::uint64_t sealed_mark = 0x00000001'45505254;
constexpr std::uint64_t invalid_mark = fence_invalid_mark;

struct fence_fields {
  std::uint64_t mark;  // first, so that one atomic store invalidates or seals
  std::uint64_t owner;
  std::uint64_t generation;
  std::uint64_t layout;
  std::uint64_t payload_sum;
  std::uint32_t valid_tokens;
  std::uint32_t reserved[3];
  std::uint64_t self_sum;  // of the 56 bytes before it, with the sealed mark
};
static_assert(sizeof(fence_fields) == fence_bytes);
static_assert(offsetof(fence_fields, payload_sum) == 8 * fence_payload_sum_word);
static_assert(offsetof(fence_fields, self_sum) == 8 * fence_self_sum_word);

std::uint64_t self_sum(const fence_fields& fields) {
  return checksum64(
      {reinterpret_cast<const std::byte*>(&fields), fence_bytes - sizeof(std::uint64_t)});
}

fence_fields make_fields(const block_tag& tag, std::uint64_t sum) {
  TROUPE_ASSERT(tag.generation != 0);
  fence_fields fields{};
  fields.mark = sealed_mark;
  fields.owner = raw(tag.owner);
  fields.generation = tag.generation;
  fields.layout = tag.layout;
  fields.payload_sum = sum;
  fields.valid_tokens = tag.valid_tokens;
  fields.self_sum = self_sum(fields);
  return fields;
}

tl::unexpected<error> differs(const char* field, std::uint64_t found, std::uint64_t expected) {
  char text[128];
  std::snprintf(text, sizeof text, "%s is %llx, expected %llx", field,
                static_cast<unsigned long long>(found), static_cast<unsigned long long>(expected));
  return fail(ec::fence_mismatch, text);
}

std::atomic_ref<std::uint64_t> mark_of(std::span<std::byte> block) {
  std::byte* fence = block.data() + block.size() - fence_bytes;
  TROUPE_ASSERT(reinterpret_cast<std::uintptr_t>(fence) % alignof(std::uint64_t) == 0);
  return std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(fence));
}

template <class Byte>
std::span<Byte> payload_of(std::span<Byte> block) {
  TROUPE_ASSERT(block.size() >= fence_bytes);
  return block.first(block.size() - fence_bytes);
}

}  // namespace

fence_image encode_fence(const block_tag& tag, std::uint64_t payload_sum) {
  fence_fields fields = make_fields(tag, payload_sum);
  fence_image image;
  std::memcpy(image.data(), &fields, fence_bytes);
  return image;
}

result<std::uint64_t> check_fence(std::span<const std::byte, fence_bytes> fence,
                                  const block_tag& expected) {
  fence_fields fields;
  std::memcpy(&fields, fence.data(), fence_bytes);
  if (fields.mark == invalid_mark)
    return fail(ec::fence_mismatch, "the block was being written by its owner");
  if (fields.mark != sealed_mark) return differs("fence mark", fields.mark, sealed_mark);
  if (std::uint64_t sum = self_sum(fields); sum != fields.self_sum)
    return differs("fence self-check", fields.self_sum, sum);
  if (fields.owner != raw(expected.owner) && !TROUPE_PLANTED(incarnation_off))
    return differs("owner", fields.owner, raw(expected.owner));
  if (fields.layout != expected.layout) return differs("layout", fields.layout, expected.layout);
  if (fields.generation != expected.generation && !TROUPE_PLANTED(generation_off))
    return differs("generation", fields.generation, expected.generation);
  if (fields.valid_tokens != expected.valid_tokens)
    return differs("valid tokens", fields.valid_tokens, expected.valid_tokens);
  return fields.payload_sum;
}

result<void> verify_fence(std::span<const std::byte, fence_bytes> fence, const block_tag& expected,
                          std::uint64_t payload_sum) {
  TROUPE_TRY(std::uint64_t stated, check_fence(fence, expected));
  if (stated != payload_sum) return differs("payload checksum", payload_sum, stated);
  return {};
}

void invalidate(std::span<std::byte> block) {
  TROUPE_ASSERT(block.size() >= fence_bytes);
  // A read-modify-write: the payload's stores that follow cannot become visible before it.
  mark_of(block).exchange(invalid_mark, std::memory_order_seq_cst);
}

std::uint64_t seal(std::span<std::byte> block, const block_tag& tag) {
  std::uint64_t sum = payload_checksum(payload_of(std::span<const std::byte>(block)));
  fence_fields fields = make_fields(tag, sum);
  std::byte* fence = block.data() + block.size() - fence_bytes;
  std::memcpy(fence + sizeof fields.mark,
              reinterpret_cast<std::byte*>(&fields) + sizeof fields.mark,
              fence_bytes - sizeof fields.mark);
  mark_of(block).store(sealed_mark, std::memory_order_release);
  return sum;
}

result<void> verify(std::span<const std::byte> block, const block_tag& expected,
                    std::uint64_t payload_sum) {
  TROUPE_ASSERT(block.size() >= fence_bytes);
  return verify_fence(block.last<fence_bytes>(), expected, payload_sum);
}

result<void> verify(std::span<const std::byte> block, const block_tag& expected) {
  // The fence first: a stale block is refused without summing it.
  TROUPE_ASSERT(block.size() >= fence_bytes);
  TROUPE_TRY(std::uint64_t stated, check_fence(block.last<fence_bytes>(), expected));
  std::uint64_t sum = payload_checksum(payload_of(block));
  if (stated != sum) return differs("payload checksum", sum, stated);
  return {};
}

std::uint64_t payload_checksum(std::span<const std::byte> payload) {
  return checksum64(payload);
}

}  // namespace troupe::transport
