#include "actors/prefix_map.hpp"

#include <gtest/gtest.h>

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
  const auto d = m.depths(keys(0, 12));
  EXPECT_EQ(d, (std::map<std::uint64_t, std::uint32_t>{{1, 10}, {2, 4}}));
  a.removed(named(5));
  follow(m, a, 1);
  EXPECT_EQ(m.depths(keys(0, 12)).at(1), 5u);
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
  EXPECT_EQ(m.depths(keys(0, 3)).at(1), 2u);
  follow(m, j, 1);
  EXPECT_EQ(m.depths(keys(0, 3)).at(1), 3u);
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
  EXPECT_TRUE(m.depths(keys(0, 1)).empty());
  EXPECT_EQ(m.size(), 0u);
  EXPECT_EQ(m.ask(2).next, 0u);
}

TEST(prefix_map, what_was_sent_is_expected_for_a_while) {
  prefix_map m;
  const auto t = prefix_map::time_point{} + seconds(100);
  m.add_node(1);
  m.expect(1, keys(0, 8), t);
  EXPECT_TRUE(m.depths(keys(0, 8)).empty()) << "it may keep nothing: it never told";
  engine::prefix_journal j;
  follow(m, j, 1);
  m.expect(1, keys(0, 8), t);
  EXPECT_EQ(m.depths(keys(0, 8)).at(1), 8u);
  for (std::uint64_t n = 0; n < 3; ++n) j.stored(named(n));
  follow(m, j, 1);
  EXPECT_EQ(m.depths(keys(0, 8)).at(1), 8u) << "three are there, the others may come";
  m.expire(t + seconds(30));
  EXPECT_EQ(m.depths(keys(0, 8)).at(1), 3u);
}

TEST(prefix_map, its_memory_is_bounded_and_what_is_asked_for_stays) {
  prefix_map m(1000);
  engine::prefix_journal j;
  m.add_node(1);
  for (std::uint64_t n = 0; n < 100; ++n) j.stored(named(n));
  follow(m, j, 1);
  for (std::uint64_t round = 0; round < 50; ++round) {
    EXPECT_EQ(m.depths(keys(0, 100)).at(1), 100u) << "round " << round;
    for (std::uint64_t n = 0; n < 200; ++n) j.stored(named(1000 + round * 200 + n));
    follow(m, j, 1, 64);
    EXPECT_LE(m.size(), 1000u);
  }
}

TEST(prefix_map, of_more_nodes_than_it_has_bits_for_nothing_is_known) {
  prefix_map m;
  engine::prefix_journal j;
  j.stored(named(0));
  for (std::uint64_t start = 1; start <= 70; ++start) m.add_node(start);
  for (std::uint64_t start = 1; start <= 70; ++start) m.apply(answer(j, start, m.ask(start)));
  EXPECT_EQ(m.depths(keys(0, 1)).size(), 64u);
  m.remove_node(3);
  m.add_node(70);
  follow(m, j, 70);
  EXPECT_TRUE(m.depths(keys(0, 1)).contains(70));
}

}  // namespace
}  // namespace troupe::actors
