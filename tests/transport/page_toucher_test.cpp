// Pages are made ahead of their use, so many and no more, and no byte changes.
#include "transport/page_toucher.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "transport/shared_memory.hpp"

namespace troupe::transport {
namespace {

constexpr std::size_t megabyte = 1 << 20;

struct page_toucher_test : ::testing::Test {
  void SetUp() override {
    auto made = shared_memory::make(64 * megabyte);
    ASSERT_TRUE(made) << to_string(made.error());
    memory.emplace(std::move(*made));
  }
  std::span<std::byte> arena() { return {memory->data(), 64 * megabyte}; }
  std::size_t resident() {
    std::vector<unsigned char> pages(arena().size() / 4096);
    EXPECT_EQ(::mincore(arena().data(), arena().size(), pages.data()), 0);
    return 4096 * static_cast<std::size_t>(
                      std::count_if(pages.begin(), pages.end(), [](auto p) { return p & 1; }));
  }
  static void wait_for(const page_toucher& t, std::size_t bytes) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (t.touched() < bytes && !t.stopped() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::optional<shared_memory> memory;
};

TEST_F(page_toucher_test, keeps_a_distance_ahead_of_what_is_used) {
  page_toucher t(arena(), 8 * megabyte);
  wait_for(t, 8 * megabyte);
  if (t.stopped()) GTEST_SKIP() << "this kernel has no MADV_POPULATE_WRITE";
  EXPECT_EQ(t.touched(), 8 * megabyte);
  EXPECT_EQ(resident(), 8 * megabyte);
  t.used(20 * megabyte);
  wait_for(t, 28 * megabyte);
  EXPECT_EQ(resident(), 28 * megabyte);
  t.used(5 * megabyte);  // less than before
  t.used(60 * megabyte);
  wait_for(t, 64 * megabyte);
  EXPECT_EQ(t.touched(), 64 * megabyte);  // and no further
}

TEST_F(page_toucher_test, leaves_what_is_written_meanwhile_alone) {
  for (std::size_t i = 0; i < 16 * megabyte; i += 4096) arena()[i] = std::byte{7};
  page_toucher t(arena(), 32 * megabyte);
  for (std::size_t i = 16 * megabyte; i < 32 * megabyte; i += 4096) arena()[i] = std::byte{7};
  wait_for(t, 32 * megabyte);
  for (std::size_t i = 0; i < 32 * megabyte; i += 4096) ASSERT_EQ(arena()[i], std::byte{7}) << i;
}

TEST_F(page_toucher_test, ends_at_once_when_it_is_not_wanted_any_more) {
  const auto before = std::chrono::steady_clock::now();
  { page_toucher t(arena(), 64 * megabyte); }
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(10));
}

}  // namespace
}  // namespace troupe::transport
