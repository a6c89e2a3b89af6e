#include "engine/philox.hpp"

#include <gtest/gtest.h>

#include <set>

namespace troupe::engine {
namespace {

// Known answers of Random123's kat_vectors, philox4x32 with 10 rounds.
TEST(philox, known_answers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}),
            (philox_counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32_10({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (philox_counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      (philox_counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(philox, uniform_is_in_range_even_and_keyed_by_everything) {
  double sum = 0, sum2 = 0;
  constexpr std::uint32_t n = 100'000;
  for (std::uint32_t i = 0; i < n; ++i) {
    const double u = uniform(7, 0, i, draw_purpose::token);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    sum2 += u * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.005);
  EXPECT_NEAR(sum2 / n, 1.0 / 3, 0.005);
  const std::set<double> all = {
      uniform(7, 0, 0, draw_purpose::token),          uniform(8, 0, 0, draw_purpose::token),
      uniform(7ull << 32, 0, 0, draw_purpose::token), uniform(7, 1, 0, draw_purpose::token),
      uniform(7, 0, 1, draw_purpose::token),          uniform(7, 0, 0, draw_purpose{1})};
  EXPECT_EQ(all.size(), 6u);
}

}  // namespace
}  // namespace troupe::engine
