#include "transport/fence.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "base/hash.hpp"

namespace troupe::transport {
namespace {

using ::testing::HasSubstr;

struct fence_test : ::testing::Test {
  static constexpr std::size_t payload_bytes = 4096;
  alignas(64) std::array<std::byte, payload_bytes + fence_bytes> block{};
  block_tag tag{incarnation{0xABCDEF}, 7, 0x1234, 16};

  void SetUp() override {
    std::mt19937_64 random(5);
    for (std::byte& b : block) b = static_cast<std::byte>(random());
    invalidate(block);
    seal(block, tag);
  }
  std::string complaint(const block_tag& expected) {
    auto outcome = verify(block, expected);
    if (outcome) return "";
    EXPECT_EQ(outcome.error().code, ec::fence_mismatch);
    return outcome.error().detail;
  }
};

TEST_F(fence_test, a_sealed_block_verifies) {
  EXPECT_TRUE(verify(block, tag));
  EXPECT_TRUE(verify(block, tag, hash64({block.data(), payload_bytes})));
  EXPECT_FALSE(verify(block, tag, 1));
}

TEST_F(fence_test, every_other_promise_is_refused_by_name) {
  block_tag other = tag;
  other.owner = incarnation{1};
  EXPECT_THAT(complaint(other), HasSubstr("owner is abcdef, expected 1"));
  other = tag, other.generation = 8;
  EXPECT_THAT(complaint(other), HasSubstr("generation is 7, expected 8"));
  other = tag, other.layout = 2;
  EXPECT_THAT(complaint(other), HasSubstr("layout"));
  other = tag, other.valid_tokens = 15;
  EXPECT_THAT(complaint(other), HasSubstr("valid tokens is 10, expected f"));
}

TEST_F(fence_test, the_invalid_state_is_refused_until_sealed_again) {
  invalidate(block);
  EXPECT_THAT(complaint(tag), HasSubstr("being written"));
  ++tag.generation;
  seal(block, tag);
  EXPECT_EQ(complaint(tag), "");
}

TEST_F(fence_test, every_flipped_bit_is_found) {
  for (std::size_t bit = 0; bit < block.size() * 8; ++bit) {
    block[bit / 8] ^= std::byte(1u << bit % 8);
    ASSERT_FALSE(verify(block, tag)) << bit;
    block[bit / 8] ^= std::byte(1u << bit % 8);
  }
  EXPECT_TRUE(verify(block, tag));
}

TEST_F(fence_test, fresh_memory_is_refused) {
  block.fill(std::byte{0});
  EXPECT_THAT(complaint(tag), HasSubstr("fence mark"));
}

TEST_F(fence_test, a_device_can_seal_by_parts) {
  fence_image image = encode_fence(tag, payload_checksum({block.data(), payload_bytes}));
  EXPECT_EQ(std::memcmp(image.data(), block.data() + payload_bytes, fence_bytes), 0);
  EXPECT_EQ(check_fence(image, tag).value(), hash64({block.data(), payload_bytes}));
}

// An owner rewrites a block again and again, and rests in the middle of every third time, while a reader copies it:
// a copy verifies only if all of it is of the expected generation. The race on the payload is the subject of the
// test, hence copies by relaxed atomics.
TEST(fence_race, no_torn_copy_verifies) {
  constexpr std::size_t words = 2048;
  alignas(64) static std::uint64_t block[words + fence_bytes / 8];
  std::span<std::byte> bytes = std::as_writable_bytes(std::span(block));
  block_tag tag{incarnation{3}, 1, 9, 16};
  std::atomic<std::uint64_t> newest = 0;
  std::atomic<bool> stop = false;
  auto rest = [] { std::this_thread::sleep_for(std::chrono::microseconds(50)); };
  std::thread owner([&] {
    for (std::uint64_t generation = 1; !stop; ++generation) {
      invalidate(bytes);
      for (std::size_t i = 0; i < words; ++i) {
        std::atomic_ref(block[i]).store(generation, std::memory_order_relaxed);
        if (i == words / 2 && generation % 3 == 0) rest();
      }
      block_tag mine = tag;
      mine.generation = generation;
      std::uint64_t sum = payload_checksum(bytes.first(words * 8));
      fence_image image = encode_fence(mine, sum);
      std::uint64_t fence[8];
      std::memcpy(fence, image.data(), fence_bytes);
      for (std::size_t i = 8; i-- > 0;) std::atomic_ref(block[words + i]).store(fence[i]);
      newest = generation;
      rest();
    }
  });
  std::size_t good = 0, refused = 0;
  alignas(64) static std::uint64_t copy[words + fence_bytes / 8];
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while ((good < 20 || refused < 20) && std::chrono::steady_clock::now() < end) {
    block_tag expected = tag;
    expected.generation = newest;
    if (expected.generation == 0) continue;
    for (std::size_t i = 0; i < std::size(copy); ++i)
      copy[i] = std::atomic_ref(block[i]).load(std::memory_order_relaxed);
    if (!verify(std::as_bytes(std::span(copy)), expected)) {
      ++refused;
      continue;
    }
    ++good;
    for (std::size_t i = 0; i < words; ++i) ASSERT_EQ(copy[i], expected.generation);
  }
  stop = true;
  owner.join();
  EXPECT_GE(good, 20u);
  EXPECT_GE(refused, 20u);
}

}  // namespace
}  // namespace troupe::transport
