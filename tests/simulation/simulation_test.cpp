// Schedules from seeds, with and without faults. A failing one is shrunk and told.
#include <gtest/gtest.h>

#include <set>

#include "tests/simulation/abort_note.hpp"
#include "tests/simulation/shrink.hpp"
#include "tests/simulation/tally.hpp"

namespace troupe::simulation {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t thinned = 20;
#else
constexpr std::uint64_t thinned = 1;
#endif

void hold(std::uint64_t first, std::uint64_t count, bool with_faults, tally* sum = nullptr,
          emphasis on = emphasis::by_seed) {
  for (auto seed = first; seed < first + count; ++seed) {
    const auto s = make_scenario(seed, with_faults, on);
    const auto out = run(s);
    if (sum != nullptr) sum->add(s, out);
    if (out.violation.empty()) continue;
    ADD_FAILURE() << report(shrink(s));
    return;
  }
}

TEST(simulation, a_seed_replays_to_the_bit) {
  std::set<std::uint64_t> hashes;
  for (std::uint64_t seed = 1; seed <= 60 / thinned + 2; ++seed) {
    const auto s = make_scenario(seed, true);
    const auto once = run(s), again = run(s, {true});
    EXPECT_EQ(once.hash, again.hash) << "seed " << seed;
    EXPECT_EQ(once.events, again.events) << "seed " << seed;
    EXPECT_FALSE(again.lines.empty());
    hashes.insert(once.hash);
  }
  EXPECT_EQ(hashes.size(), 60 / thinned + 2) << "another seed is another schedule";
}

TEST(simulation, without_faults_every_request_is_answered) {
  tally sum;
  hold(1, 400 / thinned, false, &sum);
  EXPECT_EQ(sum.answered, sum.requests);
  EXPECT_GT(sum.blocks_pulled, 0u);
}

// The tests run beside each other: each a range of its own.
class faults : public ::testing::TestWithParam<int> {};
TEST_P(faults, no_wrong_token_nobody_stuck_nothing_left) {
  constexpr std::uint64_t each = 300;
  tally sum;
  hold(1000 + each * static_cast<std::uint64_t>(GetParam()), each / thinned, true, &sum);
  EXPECT_GT(sum.answered, sum.failed) << "most requests survive";
}
INSTANTIATE_TEST_SUITE_P(simulation, faults, ::testing::Range(0, 8));

// Two ranges, so that they run beside each other.
class stores : public ::testing::TestWithParam<int> {};
TEST_P(stores, are_of_use_and_never_to_blame_for_a_token) {
  constexpr std::uint64_t each = 200;
  tally sum;
  hold(5000 + each * static_cast<std::uint64_t>(GetParam()), each / thinned, true, &sum,
       emphasis::stores);
  EXPECT_GT(sum.blocks_stored, 10 * each / thinned);
  EXPECT_GT(sum.store_evictions, 0u);
  EXPECT_GT(sum.store_hits, each / thinned / 4);
  if (thinned == 1) {
    EXPECT_GT(sum.fence_failures, 0u) << "spoiled blocks are found";
  }
}
INSTANTIATE_TEST_SUITE_P(simulation, stores, ::testing::Range(0, 2));

TEST(simulation, stores_without_faults_answer_every_request) {
  tally sum;
  hold(1, 200 / thinned, false, &sum, emphasis::stores);
  EXPECT_EQ(sum.answered, sum.requests);
  EXPECT_GT(sum.store_hits, sum.requests / 20);
}

TEST(simulation, an_assertion_of_the_product_names_its_schedule) {
  const auto s = make_scenario(4711, true, emphasis::pulls);
  EXPECT_DEATH(
      {
        const abort_note note(s);
        TROUPE_ASSERT(s.seed == 0);
      },
      "again: troupe_simulate --seed 4711 --pulls");
}

TEST(simulation, a_failing_schedule_is_made_small) {
  // Too few blocks for a longer prompt: its request fails although nothing did, which the rule for calm schedules forbids.
  auto s = make_scenario(5, false);
  s.num_blocks = 3;
  const auto out = run(s);
  ASSERT_NE(out.violation, "");
  const auto small = shrink(s);
  EXPECT_EQ(small.smallest.requests.size(), 1u);
  EXPECT_NE(report(small).find("VIOLATION"), std::string::npos);
}

}  // namespace
}  // namespace troupe::simulation
