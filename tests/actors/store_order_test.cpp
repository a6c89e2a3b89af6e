#include "actors/store_order.hpp"

#include <gtest/gtest.h>

#include <map>

namespace troupe::actors {
namespace {

constexpr std::uint64_t prompts = 6000;

std::vector<store_place> stores(std::uint32_t n) {
  std::vector<store_place> all;
  for (std::uint32_t i = 0; i < n; ++i)
    all.push_back({"kv-store-" + std::to_string(i), 100 + i, 0});
  return all;
}
hash128_t prompt(std::uint64_t n) {
  return {n * 0x9E3779B97F4A7C15ull, n};
}

TEST(store_order, every_store_has_its_share) {
  std::map<std::string, std::uint64_t> share;
  for (std::uint64_t n = 0; n < prompts; ++n) ++share[store_order(prompt(n), stores(6))[0].name];
  ASSERT_EQ(share.size(), 6u);
  for (const auto& [name, count] : share) {
    EXPECT_GT(count, prompts / 6 * 85 / 100) << name;
    EXPECT_LT(count, prompts / 6 * 115 / 100) << name;
  }
}

// A sixth of the prompts moves when a sixth store comes, all of them to it; and back when it goes.
TEST(store_order, a_store_that_comes_or_goes_moves_only_its_share) {
  std::uint64_t moved = 0;
  for (std::uint64_t n = 0; n < prompts; ++n) {
    const auto before = store_order(prompt(n), stores(5)),
               after = store_order(prompt(n), stores(6));
    if (before[0].name == after[0].name) continue;
    ++moved;
    EXPECT_EQ(after[0].name, "kv-store-5");
    EXPECT_EQ(after[1].name, before[0].name) << "where the prompt's copies are looked for next";
  }
  EXPECT_GT(moved, prompts / 6 * 85 / 100);
  EXPECT_LT(moved, prompts / 6 * 115 / 100);
}

TEST(store_order, a_restarted_store_keeps_its_share) {
  auto again = stores(4);
  for (auto& s : again) s.start += 1000;
  for (std::uint64_t n = 0; n < 500; ++n)
    EXPECT_EQ(store_order(prompt(n), stores(4))[0].name, store_order(prompt(n), again)[0].name);
}

// Readers of one prompt with three copies, while nobody is done: no store is ever given more than its bound.
TEST(store_order, readers_are_spread_over_copies_within_the_bound) {
  auto all = stores(5);
  for (std::uint64_t n = 0; n < 300; ++n) {
    auto order = store_order(prompt(n % 7), all);
    const auto& to = store_to_read(order, 3, n);
    for (auto& s : all) s.load += s.start == to.start;
  }
  std::uint32_t most = 0;
  for (const auto& s : all) most = std::max(most, s.load);
  EXPECT_LE(most, 300 / 5 * 125 / 100 + 3);
  auto one = stores(3);
  one[0].load = one[1].load = one[2].load = 9;
  const auto order = store_order(prompt(1), one);
  EXPECT_EQ(store_to_read(order, 1, 5).name, order[0].name) << "without copies the home is asked";
}

}  // namespace
}  // namespace troupe::actors
