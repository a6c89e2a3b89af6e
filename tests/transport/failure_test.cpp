// Real processes that are killed, paused and restarted at bad moments. Every wait here is bounded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstring>
#include <random>

#include "tests/transport/child.hpp"
#include "tests/transport/harness.hpp"

namespace troupe::transport::testing {
namespace {

constexpr incarnation self{0x5E1F}, bob{0xB0B}, feed{0xFEED};
constexpr std::size_t arena = 16 << 20;

struct failure : ::testing::TestWithParam<const char*> {
  ucx_world here{std::string(GetParam()) == "shm" ? path::shm : path::tcp};
  recorder events;
  std::unique_ptr<fabric> mine = here.make(self, events.sink(), 4096);
  region target = mine->allocate(arena).value();
  std::uint64_t next_op = 0;

  std::unique_ptr<child> start_owner(std::string& address) {
    auto owner = std::make_unique<child>("owner", "", GetParam());
    address = from_hex_text(owner->hear());
    EXPECT_FALSE(address.empty());
    return owner;
  }
  result<void> pull(std::size_t bytes, std::chrono::milliseconds within) {
    return mine->pull({op_id{next_op++},
                       bob,
                       region_id{0},
                       target.id,
                       {{0, 0, bytes}},
                       clock::now() + within,
                       false});
  }
  bool all_done() { return events.done().size() == next_op; }
};

TEST_P(failure, a_killed_owner_ends_every_pull_within_a_second) {
  std::mt19937 random(1);
  for (int round = 0; round < 12; ++round) {
    std::string address;
    auto owner = start_owner(address);
    std::size_t downs = events.down().size(), ups = events.up().size();
    ASSERT_TRUE(mine->connect(bob, address));
    ASSERT_TRUE(events.wait([&] { return events.up().size() > ups; }, 5s));
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(pull(arena, 20s));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    auto killed = clock::now();
    owner->signal(SIGKILL);
    ASSERT_TRUE(events.wait([&] { return events.down().size() > downs; }, 5s)) << round;
    EXPECT_TRUE(all_done()) << "pulls end before peer_down";
    EXPECT_LT(clock::now() - killed, 1s);
    EXPECT_EQ(events.down().back().reason.code, ec::peer_lost);
    for (const pull_done& done : events.done())
      if (!done.outcome) {
        EXPECT_EQ(done.outcome.error().code, ec::peer_lost);
      }
  }
  EXPECT_EQ(mine->stats().peers_lost, 12u);
  EXPECT_EQ(mine->stats().pulls_running, 0u);
}

TEST_P(failure, killed_readers_do_not_hurt_the_owner) {
  std::string address = mine->local_address().value();
  std::mt19937 random(2);
  for (int round = 0; round < 40; ++round) {
    child reader("reader", "", GetParam());
    ASSERT_EQ(reader.hear(), "ready");
    reader.say(to_hex_text(address));
    reader.say(std::to_string(raw(self)));
    ASSERT_EQ(reader.hear(), "connecting");
    if (round % 2 == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    } else {
      ASSERT_EQ(reader.hear(), "pulling");
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    }
    reader.signal(SIGKILL);
    EXPECT_TRUE(WIFSIGNALED(reader.wait()));
  }
  // Still serves.
  child reader("reader", "", GetParam());
  ASSERT_EQ(reader.hear(), "ready");
  reader.say(to_hex_text(address));
  reader.say(std::to_string(raw(self)));
  ASSERT_EQ(reader.hear(), "connecting");
  EXPECT_EQ(reader.hear(), "pulling");
}

INSTANTIATE_TEST_SUITE_P(over, failure, ::testing::Values("shm", "tcp"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace troupe::transport::testing
