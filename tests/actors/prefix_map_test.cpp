#include "actors/prefix_map.hpp"

#include <gtest/gtest.h>

#include <map>

#include "engine/prefix_journal.hpp"

namespace troupe::actors {
namespace {

using std::chrono::seconds;

hash128_t named(std::uint64_t n) {
  return {n, n * 2};
}
std::vector<std::uint64_t> keys(std::uint64_t from, std::uint64_t to) {
  std::vector<std::uint64_t> k;
  for (auto n = from; n < to; ++n) k.push_back(engine::prefix_journal::key(named(n)));
  return k;
}
prefix_events answer(const engine::prefix_journal& j, std::uint64_t start,
                     const prefix_events_request& r, std::size_t limit = 1000) {
  const auto p = j.read(r.next, r.since, limit);
  return {start, p.first, p.next, p.since, p.reset, p.more, p.changes};
}
void follow(prefix_map& m, const engine::prefix_journal& j, std::uint64_t start,
            std::size_t limit = 1000) {
  while (m.apply(answer(j, start, m.ask(start), limit))) {
  }
}

using depth_map = std::map<std::uint64_t, std::uint32_t>;
depth_map depths(prefix_map& m, const std::vector<std::uint64_t>& of) {
  const auto found = m.depths(of);
  const depth_map sorted(found.begin(), found.end());
  EXPECT_EQ(sorted.size(), found.size()) << "a node is named twice";
  return sorted;
}

TEST(prefix_map, tells_how_much_of_a_prompt_each_node_has) {
  prefix_map m;
  engine::prefix_journal a, b;
  for (std::uint64_t n = 0; n < 10; ++n) a.stored(named(n));
  for (std::uint64_t n = 0; n < 4; ++n) b.stored(named(n));
  b.stored(named(7));  // behind a gap: of no use
  m.add_node(1);
  m.add_node(2);
  m.add_node(3);
  follow(m, a, 1, 3);
  follow(m, b, 2);
  const auto d = depths(m, keys(0, 12));
  EXPECT_EQ(d, (depth_map{{1, 10}, {2, 4}}));
  a.removed(named(5));
  follow(m, a, 1);
  EXPECT_EQ(depths(m, keys(0, 12)).at(1), 5u);
}

TEST(prefix_map, an_answer_that_does_not_follow_is_left_out_and_asked_for_again) {
  prefix_map m;
  engine::prefix_journal j;
  m.add_node(1);
  j.stored(named(0));
  const auto first = answer(j, 1, m.ask(1));
  EXPECT_FALSE(m.apply(first));
  j.stored(named(1));
  const auto second = answer(j, 1, m.ask(1));
  j.stored(named(2));
  m.apply(second);
  m.apply(second);  // again
  auto gap = answer(j, 1, m.ask(1));
  gap.first += 1;
  m.apply(gap);
  EXPECT_EQ(depths(m, keys(0, 3)).at(1), 2u);
  follow(m, j, 1);
  EXPECT_EQ(depths(m, keys(0, 3)).at(1), 3u);
  prefix_events stranger = second;
  stranger.start = 99;
  EXPECT_FALSE(m.apply(stranger));
}

TEST(prefix_map, a_new_incarnation_starts_with_nothing) {
  prefix_map m;
  engine::prefix_journal j;
  m.add_node(1);
  j.stored(named(0));
  follow(m, j, 1);
  m.remove_node(1);
  m.add_node(2);  // takes the place of the first
  EXPECT_TRUE(depths(m, keys(0, 1)).empty());
  EXPECT_EQ(m.size(), 0u);
  EXPECT_EQ(m.ask(2).next, 0u);
}

TEST(prefix_map, what_was_sent_is_expected_for_a_while) {
  prefix_map m;
  const auto t = prefix_map::time_point{} + seconds(100);
  m.add_node(1);
  m.expect(1, keys(0, 8), t);
  EXPECT_TRUE(depths(m, keys(0, 8)).empty()) << "it may keep nothing: it never told";
  engine::prefix_journal j;
  follow(m, j, 1);
  m.expect(1, keys(0, 8), t);
  EXPECT_EQ(depths(m, keys(0, 8)).at(1), 8u);
  for (std::uint64_t n = 0; n < 3; ++n) j.stored(named(n));
  follow(m, j, 1);
  EXPECT_EQ(depths(m, keys(0, 8)).at(1), 8u) << "three are there, the others may come";
  m.expire(t + seconds(30));
  EXPECT_EQ(depths(m, keys(0, 8)).at(1), 3u);
}

TEST(prefix_map, its_memory_is_bounded_and_what_is_asked_for_stays) {
  prefix_map m(1000 * prefix_map::entry_bytes);
  engine::prefix_journal j;
  m.add_node(1);
  for (std::uint64_t n = 0; n < 100; ++n) j.stored(named(n));
  follow(m, j, 1);
  for (std::uint64_t round = 0; round < 50; ++round) {
    EXPECT_EQ(depths(m, keys(0, 100)).at(1), 100u) << "round " << round;
    for (std::uint64_t n = 0; n < 200; ++n) j.stored(named(1000 + round * 200 + n));
    follow(m, j, 1, 64);
    EXPECT_LE(m.size(), 1000u);
  }
}

TEST(prefix_map, a_thousand_nodes_are_followed) {
  prefix_map m;
  engine::prefix_journal shared, own;
  for (std::uint64_t n = 0; n < 20; ++n) shared.stored(named(n));
  for (std::uint64_t start = 1; start <= 1000; ++start) m.add_node(start);
  for (std::uint64_t start = 1; start <= 1000; ++start) follow(m, shared, start);
  EXPECT_EQ(m.size(), 20u);
  const auto all = depths(m, keys(0, 30));
  EXPECT_EQ(all.size(), 1000u);
  for (const auto& [start, depth] : all) EXPECT_EQ(depth, 20u) << start;
  for (std::uint64_t start = 1; start <= 999; ++start) m.remove_node(start);
  EXPECT_EQ(depths(m, keys(0, 30)), (depth_map{{1000, 20}}));
  EXPECT_LE(m.bytes(), 20 * prefix_map::entry_bytes) << "bits of nodes that are gone cost nothing";
  m.add_node(5000);  // takes the number of one that went
  EXPECT_EQ(depths(m, keys(0, 30)), (depth_map{{1000, 20}}));
}

TEST(prefix_map, many_nodes_do_not_break_its_bound) {
  constexpr std::size_t budget = 200'000;
  prefix_map m(budget);
  std::vector<engine::prefix_journal> journals(300);
  for (std::uint64_t start = 1; start <= journals.size(); ++start) m.add_node(start);
  for (std::uint64_t n = 0; n < 4000; ++n)
    for (std::uint64_t k = 0; k < 8; ++k) journals[(n * 37 + k * k) % 300].stored(named(n));
  for (std::uint64_t n = 0; n < 10; ++n)
    for (auto& j : journals) j.stored(named(100'000 + n));
  for (std::uint64_t start = 1; start <= journals.size(); ++start) {
    follow(m, journals[start - 1], start);
    EXPECT_EQ(depths(m, keys(100'000, 100'010)).at(start), 10u);  // asked for, so it stays
    EXPECT_LE(m.bytes(), budget + 1000);
  }
  EXPECT_EQ(depths(m, keys(100'000, 100'010)).size(), 300u);
}

// Against sets that are as simple as can be.
TEST(prefix_map, is_what_its_nodes_told) {
  constexpr std::uint64_t num_nodes = 200, num_blocks = 40;
  prefix_map m;
  std::vector<engine::prefix_journal> journals(num_nodes);
  std::vector<std::vector<bool>> held(num_nodes, std::vector<bool>(num_blocks));
  for (std::uint64_t start = 1; start <= num_nodes; ++start) m.add_node(start);
  std::uint64_t random = 88172645463325252ull;
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < 2000; ++i) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      const std::uint64_t n = random % num_nodes, b = random / num_nodes % num_blocks;
      const bool gone = held[n][b] && (round % 2 == 0 || random % 3 == 0);
      if (gone) journals[n].removed(named(b));
      if (!held[n][b]) journals[n].stored(named(b));
      held[n][b] = !gone;
    }
    depth_map expected;
    for (std::uint64_t n = 0; n < num_nodes; ++n) {
      follow(m, journals[n], n + 1, 50);
      std::uint32_t depth = 0;
      while (depth < num_blocks && held[n][depth]) ++depth;
      if (depth > 0) expected[n + 1] = depth;
    }
    ASSERT_EQ(depths(m, keys(0, num_blocks)), expected) << "round " << round;
  }
}

}  // namespace
}  // namespace troupe::actors
