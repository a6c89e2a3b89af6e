#include "transport/staging.hpp"

#include <gtest/gtest.h>

#include "tests/transport/fake_device.hpp"
#include "tests/transport/harness.hpp"

namespace troupe::transport::testing {
namespace {

constexpr std::size_t page = 4096, bytes = 16 * page;

struct staging_slots : ::testing::Test {
  fake_device device;
  staging slots{&device, bytes, 30s};
  std::vector<std::byte*> taken;

  // As many as one who holds `held` can get.
  std::size_t take_all(std::size_t slot_bytes, std::size_t held = 0) {
    std::size_t got = 0;
    for (;; ++got) {
      auto slot = slots.take(slot_bytes, held + got);
      if (!slot) {
        EXPECT_EQ(slot.error().code, ec::queue_full);
        return got;
      }
      taken.push_back(*slot);
    }
  }
  void give_all_back() {
    for (std::byte* slot : std::exchange(taken, {})) slots.give_back(slot);
  }
};

TEST_F(staging_slots, who_came_first_leaves_some_for_the_next) {
  EXPECT_EQ(take_all(page), 8u);
  EXPECT_EQ(take_all(page), 4u);
  EXPECT_EQ(take_all(page), 2u);
  EXPECT_EQ(take_all(page), 1u);
  EXPECT_EQ(take_all(page), 1u) << "whoever holds none gets the last";
  EXPECT_EQ(take_all(page), 0u);
  slots.give_back(taken.back());
  taken.pop_back();
  EXPECT_EQ(take_all(page, 8), 0u) << "not for the first";
  EXPECT_EQ(take_all(page), 1u);
  give_all_back();
}

TEST_F(staging_slots, follow_the_size_of_the_blocks) {
  EXPECT_EQ(take_all(8 * page), 1u);  // two slots
  EXPECT_EQ(take_all(16 * page), 0u) << "not while smaller ones are taken";
  give_all_back();
  EXPECT_EQ(take_all(16 * page), 1u);
  EXPECT_EQ(take_all(page), 0u);
  give_all_back();
  EXPECT_EQ(take_all(page), 8u) << "sixteen slots again: they shrink after a burst of large ones";
  give_all_back();
  EXPECT_EQ(slots.take(17 * page, 0).error().code, ec::out_of_memory);
}

TEST_F(staging_slots, give_their_memory_back_after_a_rest) {
  time_point now{1h};
  slots.rest(now);
  EXPECT_FALSE(slots.rests_at()) << "there is nothing to give back";
  EXPECT_EQ(take_all(page), 8u);
  EXPECT_EQ(device.pinned(), bytes);
  slots.rest(now += 1h);
  EXPECT_FALSE(slots.rests_at()) << "slots are taken";
  EXPECT_EQ(device.pinned(), bytes);
  give_all_back();
  slots.rest(now);
  EXPECT_EQ(slots.rests_at(), now + 30s);
  slots.rest(now += 29s);
  EXPECT_EQ(device.pinned(), bytes);
  EXPECT_EQ(take_all(page), 8u);
  slots.rest(now += 2s);
  give_all_back();
  slots.rest(now);
  slots.rest(now += 29s);
  EXPECT_EQ(device.pinned(), bytes) << "the rest began anew";
  slots.rest(now += 1s);
  EXPECT_EQ(device.pinned(), 0u);
  EXPECT_FALSE(slots.rests_at());
  EXPECT_EQ(take_all(page), 8u) << "and are made again";
  EXPECT_EQ(device.pinned(), bytes);
  give_all_back();
}

}  // namespace
}  // namespace troupe::transport::testing
