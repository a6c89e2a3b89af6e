#include "actors/admission.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <random>

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;
using time_point = admission_queue::time_point;

struct admission_test : ::testing::Test {
  admission_queue::ticket ticket(std::uint64_t id, const std::string& tenant = "a",
                                 std::int32_t priority = 0, std::uint64_t cost = 100,
                                 milliseconds deadline = milliseconds(600'000)) {
    return {id, tenant, priority, cost, now + deadline};
  }
  bool enters(admission_queue::ticket t) { return !queue.enter(std::move(t), now); }
  std::vector<std::uint64_t> all() {
    std::vector<std::uint64_t> order;
    while (auto id = queue.next(now)) order.push_back(*id);
    return order;
  }
  // One request after the other, each `each` long, so that the rate becomes known.
  void warm_up(std::uint64_t cost, milliseconds each, int count) {
    for (int i = 0; i < count; ++i) {
      ASSERT_TRUE(enters(ticket(1'000'000 + i, "warm", 0, cost)));
      ASSERT_TRUE(queue.next(now));
      now += each;
      EXPECT_TRUE(queue.leave(1'000'000 + i, cost, true, now));
    }
  }
  time_point now = time_point(std::chrono::hours(1));
  admission_queue queue{{8, milliseconds(10'000)}};
};

TEST_F(admission_test, serves_in_order_of_priority_then_arrival) {
  for (auto [id, priority] : {std::pair{1, 0}, {2, 5}, {3, -1}, {4, 0}})
    ASSERT_TRUE(enters(ticket(static_cast<std::uint64_t>(id), "a", priority)));
  EXPECT_EQ(all(), (std::vector<std::uint64_t>{3, 1, 4, 2}));
  EXPECT_EQ(queue.serving(), 4u);
  EXPECT_EQ(queue.waiting(), 0u);
}

TEST_F(admission_test, tenants_take_turns_by_the_tokens_they_had) {
  for (std::uint64_t id : {1, 2, 3, 4}) ASSERT_TRUE(enters(ticket(id, "greedy")));
  ASSERT_TRUE(enters(ticket(10, "modest", 0, 50)));
  ASSERT_TRUE(enters(ticket(11, "modest", 0, 50)));
  ASSERT_TRUE(enters(ticket(12, "modest", 0, 50)));
  EXPECT_EQ(all(), (std::vector<std::uint64_t>{1, 10, 11, 2, 12, 3, 4}));
}

TEST_F(admission_test, idleness_is_not_saved_up) {
  ASSERT_TRUE(enters(ticket(1, "idle")));
  EXPECT_EQ(all().size(), 1u);
  queue.leave(1, 100, true, now);
  for (std::uint64_t id = 10; id < 18; ++id) {
    ASSERT_TRUE(enters(ticket(id, "busy", 0, 1000)));
    ASSERT_TRUE(queue.next(now));
    queue.leave(id, 1000, true, now);
  }
  for (std::uint64_t id : {20, 21}) ASSERT_TRUE(enters(ticket(id, "busy", 0, 1000)));
  for (std::uint64_t id : {30, 31, 32, 33}) ASSERT_TRUE(enters(ticket(id, "idle", 0, 1000)));
  const auto order = all();
  // Equal shares from now on, not eight turns for the one that was idle.
  EXPECT_TRUE(std::find(order.begin(), order.begin() + 4, 21) != order.begin() + 4);
}

TEST_F(admission_test, unused_tokens_are_given_back) {
  ASSERT_TRUE(enters(ticket(1, "a", 0, 1000)));
  ASSERT_TRUE(enters(ticket(2, "b", 0, 300)));
  EXPECT_EQ(all().size(), 2u);
  queue.leave(1, 10, true, now);  // stopped early
  ASSERT_TRUE(enters(ticket(3, "b", 0, 100)));
  ASSERT_TRUE(enters(ticket(4, "a", 0, 100)));
  EXPECT_EQ(all(), (std::vector<std::uint64_t>{4, 3}));
}

TEST_F(admission_test, the_queue_is_bounded_and_a_better_priority_displaces) {
  for (std::uint64_t id = 1; id <= 8; ++id) ASSERT_TRUE(enters(ticket(id, "a", id == 3 ? 7 : 0)));
  auto refused = queue.enter(ticket(9, "a", 7), now);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->why.code, ec::queue_full);
  EXPECT_TRUE(queue.take_dropped().empty());
  ASSERT_TRUE(enters(ticket(10)));
  const auto dropped = queue.take_dropped();
  ASSERT_EQ(dropped.size(), 1u);
  EXPECT_EQ(dropped[0].first, 3u);
  EXPECT_EQ(dropped[0].second.code, ec::overloaded);
  EXPECT_TRUE(queue.take_dropped().empty());
  EXPECT_EQ(queue.waiting(), 8u);
}

TEST_F(admission_test, predicts_the_wait_and_refuses_what_would_be_late) {
  warm_up(100, milliseconds(1000), 5);  // 100 tokens a second
  EXPECT_NEAR(queue.tokens_per_second(), 100, 5);
  ASSERT_TRUE(enters(ticket(1)));
  ASSERT_TRUE(queue.next(now));
  for (std::uint64_t id : {2, 3, 4}) ASSERT_TRUE(enters(ticket(id)));
  // Three requests, and half of the one that is served.
  EXPECT_NEAR(queue.predicted_wait("a", 0).count(), 3.5, 0.3);
  EXPECT_NEAR(queue.predicted_wait("a", -1).count(), 0, 0.01);
  auto late = queue.enter(ticket(5, "a", 0, 100, milliseconds(4000)), now);
  ASSERT_TRUE(late);
  EXPECT_EQ(late->why.code, ec::overloaded);
  EXPECT_GE(late->retry_after.count(), 3);
  EXPECT_TRUE(enters(ticket(5, "a", 0, 100, milliseconds(6000))));
  EXPECT_TRUE(enters(ticket(6, "a", -1, 100, milliseconds(3500))))
      << "a better priority waits less";
  ASSERT_TRUE(enters(ticket(7, "a", 0, 1000)));
  auto long_wait = queue.enter(ticket(8), now);
  ASSERT_TRUE(long_wait);
  EXPECT_EQ(long_wait->why.code, ec::overloaded);
  // Another tenant is not behind the one that filled the queue.
  EXPECT_LT(queue.predicted_wait("b", 0).count(), 7);
  EXPECT_TRUE(enters(ticket(9, "b")));
}

TEST_F(admission_test, what_cannot_be_in_time_any_more_is_dropped_instead_of_served) {
  warm_up(100, milliseconds(1000), 5);
  ASSERT_TRUE(enters(ticket(1)));
  ASSERT_TRUE(queue.next(now));
  ASSERT_TRUE(enters(ticket(2, "a", 0, 100, milliseconds(2500))));
  ASSERT_TRUE(enters(ticket(3)));
  now += milliseconds(2000);  // the first one took longer than expected
  queue.leave(1, 100, true, now);
  EXPECT_EQ(queue.next(now), std::optional<std::uint64_t>(3));
  const auto dropped = queue.take_dropped();
  ASSERT_EQ(dropped.size(), 1u);
  EXPECT_EQ(dropped[0].first, 2u);
}

TEST_F(admission_test, who_did_not_wait_is_served_however_long_the_answer_may_become) {
  warm_up(100, milliseconds(1000), 5);
  now += std::chrono::minutes(10);
  // 100,000 tokens would take 1,000 s at that rate, but nobody says that the answer will have so many.
  ASSERT_TRUE(enters(ticket(1, "a", 0, 100'000, milliseconds(60'000))));
  EXPECT_EQ(queue.next(now), std::optional<std::uint64_t>(1));
  ASSERT_TRUE(enters(ticket(2, "a", 0, 100'000, milliseconds(60'000))));
  now += milliseconds(300);
  EXPECT_EQ(queue.next(now), std::optional<std::uint64_t>(2));
  EXPECT_TRUE(queue.take_dropped().empty());
}

TEST_F(admission_test, canceled_requests_do_not_make_the_server_look_faster) {
  warm_up(100, milliseconds(1000), 5);
  const double before = queue.tokens_per_second();
  for (std::uint64_t id = 1; id <= 5; ++id) {
    ASSERT_TRUE(enters(ticket(id, "a", 0, 100'000)));
    ASSERT_TRUE(queue.next(now));
    now += milliseconds(1000);
    EXPECT_TRUE(queue.leave(id, 100, false, now));
  }
  EXPECT_NEAR(queue.tokens_per_second(), before, before * 0.1);
}

TEST_F(admission_test, nothing_is_refused_before_the_rate_is_known) {
  for (std::uint64_t id = 1; id <= 8; ++id)
    EXPECT_TRUE(enters(ticket(id, "a", 0, 1'000'000, milliseconds(1))));
}

TEST_F(admission_test, leaving_twice_or_unknown_is_harmless) {
  ASSERT_TRUE(enters(ticket(1)));
  EXPECT_FALSE(queue.leave(1, 0, true, now));  // it only waited
  EXPECT_FALSE(queue.leave(1, 0, true, now));
  EXPECT_FALSE(queue.leave(77, 5, true, now));
  EXPECT_EQ(queue.waiting(), 0u);
  EXPECT_FALSE(queue.next(now));
}

// Work comes at three times what can be done, each request with a deadline of five seconds. What is done in time must
// be nearly as much as with just enough work.
TEST_F(admission_test, goodput_holds_under_three_times_the_load) {
  auto goodput = [](double load) {
    admission_queue q{{1024, milliseconds(30'000)}};
    std::mt19937 random(1);
    std::exponential_distribution<double> gap(load *
                                              2);  // two requests a second are what can be done
    auto t = time_point(std::chrono::hours(1));
    double next_arrival = 0, busy_until = 0;
    std::uint64_t id = 0, in_time = 0;
    std::map<std::uint64_t, double> deadlines;
    std::optional<std::uint64_t> running;
    for (double s = 0; s < 300; s += 0.01) {
      const auto at = t + std::chrono::duration_cast<std::chrono::nanoseconds>(
                              std::chrono::duration<double>(s));
      while (next_arrival <= s) {
        next_arrival += gap(random);
        ++id;
        if (!q.enter({id, "a", 0, 100, at + milliseconds(5000)}, at)) deadlines[id] = s + 5;
      }
      if (running && busy_until <= s) {
        in_time += deadlines.at(*running) >= s;
        q.leave(*running, 100, true, at);
        running.reset();
      }
      if (!running && (running = q.next(at))) busy_until = s + 0.5;
      q.take_dropped();
    }
    return in_time;
  };
  const auto calm = goodput(1), stormy = goodput(3);
  EXPECT_GT(static_cast<double>(stormy), 0.9 * static_cast<double>(calm))
      << stormy << " of " << calm;
}

}  // namespace
}  // namespace troupe::actors
