#include "engine/prefix_journal.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace troupe::engine {
namespace {

hash128_t named(std::uint64_t n) {
  return {n, n * 2};
}

// Whoever follows a journal, page by page.
struct follower {
  std::uint64_t next = 0, since = 0, resets = 0;
  std::set<std::uint64_t> here;
  bool read(const prefix_journal& j, std::size_t limit) {
    const auto p = j.read(next, since, limit);
    EXPECT_TRUE(p.reset || p.first == next);
    if (p.reset) {
      here.clear();
      ++resets;
    }
    for (const auto c : p.changes) {
      if ((c & 1) != 0)
        here.insert(c & ~std::uint64_t{1});
      else
        here.erase(c);
    }
    next = p.next;
    since = p.since;
    return p.more;
  }
  void catch_up(const prefix_journal& j, std::size_t limit) {
    while (read(j, limit)) {
    }
  }
};

TEST(prefix_journal, changes_come_in_order_and_once) {
  prefix_journal j;
  follower f;
  f.catch_up(j, 100);
  EXPECT_EQ(f.resets, 1u);
  j.stored(named(1));
  j.stored(named(2));
  j.removed(named(1));
  f.catch_up(j, 100);
  EXPECT_EQ(f.here, (std::set<std::uint64_t>{4}));
  const auto before = f.next;
  f.catch_up(j, 100);
  EXPECT_EQ(f.next, before);
  EXPECT_EQ(f.resets, 1u) << "nothing is told twice";
}

TEST(prefix_journal, a_follower_that_is_too_late_gets_a_snapshot) {
  prefix_journal j(4);  // remembers four removals
  follower f;
  f.catch_up(j, 100);
  for (std::uint64_t n = 1; n <= 20; ++n) j.stored(named(n));
  f.catch_up(j, 100);
  for (std::uint64_t n = 1; n <= 10; ++n) j.removed(named(n));
  f.catch_up(j, 100);
  EXPECT_EQ(f.resets, 2u);
  EXPECT_EQ(f.here.size(), 10u);
}

TEST(prefix_journal, what_is_held_twice_stays_until_both_let_go) {
  prefix_journal j;
  follower f;
  j.stored(named(1));
  j.stored(named(1));
  j.removed(named(1));
  f.catch_up(j, 100);
  EXPECT_EQ(f.here.size(), 1u);
  j.removed(named(1));
  f.catch_up(j, 100);
  EXPECT_TRUE(f.here.empty());
}

// A number of another incarnation's journal.
TEST(prefix_journal, a_number_from_the_future_is_a_new_beginning) {
  prefix_journal j;
  j.stored(named(1));
  follower f;
  f.next = 1000;
  f.catch_up(j, 100);
  EXPECT_EQ(f.resets, 1u);
  EXPECT_EQ(f.here.size(), 1u);
}

// Whatever comes and goes between the pages, a follower that has caught up knows what is there.
TEST(prefix_journal, followers_of_every_pace_arrive_at_the_truth) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    prefix_journal j(1 + random() % 64);
    std::multiset<std::uint64_t> truth;
    follower f;
    for (int step = 0; step < 400; ++step) {
      const auto n = random() % 60 + 1;
      if (random() % 2 == 0) {
        j.stored(named(n));
        truth.insert(n * 2);
      } else if (truth.contains(n * 2)) {
        j.removed(named(n));
        truth.erase(truth.find(n * 2));
      }
      if (random() % 8 == 0) f.read(j, 1 + random() % 10);
    }
    f.catch_up(j, 7);
    EXPECT_EQ(f.here, std::set<std::uint64_t>(truth.begin(), truth.end())) << "seed " << seed;
    EXPECT_EQ(j.size(), f.here.size());
  }
}

}  // namespace
}  // namespace troupe::engine
