// Real processes that are killed, paused and restarted at bad moments. Every wait here is bounded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "tests/transport/child.hpp"
#include "tests/transport/harness.hpp"
#include "transport/address.hpp"

namespace troupe::transport::testing {
namespace {

constexpr incarnation self{0x5E1F}, bob{0xB0B}, feed{0xFEED};
constexpr std::size_t arena = 16 << 20;

struct failure : ::testing::TestWithParam<const char*> {
  ucx_world here{path_named(GetParam()), 8s};
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

TEST_P(failure, a_killed_owner_ends_every_pull_long_before_its_deadline) {
  std::mt19937 random(1);
  for (int round = 0; round < 12; ++round) {
    std::string address;
    auto owner = start_owner(address);
    std::size_t downs = events.down().size(), ups = events.up().size();
    ASSERT_TRUE(mine->connect(bob, address));
    ASSERT_TRUE(events.wait([&] { return events.up().size() > ups; }, 30s));
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(pull(arena, 10min));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    owner->signal(SIGKILL);
    ASSERT_TRUE(events.wait([&] { return events.down().size() > downs; }, 30s)) << round;
    EXPECT_TRUE(all_done()) << "pulls end before peer_down";
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

// After a pull's end its memory is ours alone: what the owner still has on the wire must not land.
struct quiet_memory {
  explicit quiet_memory(region r) : where(r) { std::memset(r.data, 0x77, r.bytes); }
  bool untouched() const {
    return std::all_of(where.data, where.data + where.bytes,
                       [](std::byte b) { return b == std::byte{0x77}; });
  }
  region where;
};

struct paused : failure {};

TEST_P(paused, a_paused_owner_costs_only_the_deadline_and_writes_nothing_late) {
  std::string address;
  auto owner = start_owner(address);
  ASSERT_TRUE(mine->connect(bob, address));
  ASSERT_TRUE(pull(4096, 30s));
  ASSERT_TRUE(events.wait([&] { return all_done(); }, 40s));
  ASSERT_TRUE(events.done()[0].outcome);
  owner->signal(SIGSTOP);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(pull(arena, 300ms));
  ASSERT_TRUE(events.wait([&] { return all_done(); }, 30s));
  bool maps = std::string(GetParam()) == "shm", gets = std::string(GetParam()) == "rdma";
  for (std::size_t i = 1; i < next_op; ++i) {
    auto done = events.done()[i];
    if (maps && done.outcome) continue;  // mapped memory needs no running owner
    ASSERT_FALSE(done.outcome);
    EXPECT_TRUE(done.outcome.error().code == ec::deadline_exceeded ||
                (gets && done.outcome.error().code == ec::peer_lost));
  }
  quiet_memory quiet(target);
  owner->signal(SIGCONT);
  std::this_thread::sleep_for(1s);
  EXPECT_TRUE(quiet.untouched());
  // One-sided gets cost the connection, since only its end makes the memory quiescent.
  EXPECT_EQ(mine->stats().forced_closes, gets ? 1u : 0u);
  EXPECT_EQ(events.down().size(), gets ? 1u : 0u);
  if (gets) return;  // over TCP UCX's software get may abort its owner now (transport/README.md)
  ASSERT_TRUE(mine->connect(bob, address));
  ASSERT_TRUE(pull(arena, 30s));
  ASSERT_TRUE(events.wait([&] { return all_done(); }, 40s));
  EXPECT_TRUE(events.done().back().outcome);
  std::uint64_t word;
  std::memcpy(&word, target.data + 8 * 1000, 8);
  EXPECT_EQ(word, 1000u);
}

TEST_P(failure, disconnect_in_mid_pull_leaves_memory_quiet) {
  std::string address;
  auto owner = start_owner(address);
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(mine->connect(bob, address));
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(pull(arena, 20s));
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 7));
    std::size_t downs = events.down().size();
    mine->disconnect(bob);
    ASSERT_TRUE(events.wait([&] { return events.down().size() > downs; }, 3s));
    ASSERT_TRUE(all_done());
    quiet_memory quiet(target);
    std::this_thread::sleep_for(20ms);
    EXPECT_TRUE(quiet.untouched()) << round;
  }
}

TEST_P(failure, an_owner_that_does_not_answer_is_given_up) {
  std::string address;
  auto owner = start_owner(address);
  owner->signal(SIGSTOP);
  ASSERT_TRUE(mine->connect(bob, address));
  ASSERT_TRUE(pull(arena, 20s));
  ASSERT_TRUE(events.wait([&] { return events.down().size() == 1; }, 4s));
  EXPECT_EQ(events.down()[0].reason.code, ec::deadline_exceeded);
  EXPECT_TRUE(all_done());
  // The reader may even be gone when the owner wakes up and answers.
  mine->close();
  owner->signal(SIGCONT);
  owner->say("end");
  EXPECT_EQ(owner->hear(), "closed") << "the owner lives";
}

TEST_P(failure, a_dead_address_is_noticed_at_once) {
  std::string address;
  auto owner = start_owner(address);
  owner->signal(SIGKILL);
  owner->wait();
  ASSERT_TRUE(mine->connect(bob, address));
  ASSERT_TRUE(events.wait([&] { return events.down().size() == 1; }, 1500ms));
  EXPECT_EQ(events.down()[0].reason.code, ec::peer_lost);
  EXPECT_EQ(
      mine->pull({op_id{1}, bob, region_id{0}, target.id, {{0, 0, 8}}, clock::now() + 1s, false})
          .error()
          .code,
      ec::not_found);
}

TEST_P(failure, another_process_at_the_address_is_not_taken_for_the_peer) {
  recorder ignored;
  auto other = here.make(feed, ignored.sink(), 16);
  region theirs = other->allocate(4096).value();
  auto forged = decode_address(other->local_address().value()).value();
  forged.owner =
      bob;  // what a directory would hold after bob's port was taken over: feed refuses it
  ASSERT_TRUE(mine->connect(bob, encode(forged)));
  ASSERT_TRUE(pull(theirs.bytes, 5s));
  ASSERT_TRUE(events.wait([&] { return events.down().size() == 1; }, 20s));
  EXPECT_TRUE(events.up().empty());
  EXPECT_EQ(events.down()[0].reason.code, ec::deadline_exceeded);
  EXPECT_EQ(other->stats().hellos_refused[refusal::wrong_key], 1u);
  EXPECT_FALSE(events.done().at(0).outcome);
}

INSTANTIATE_TEST_SUITE_P(over, failure, ::testing::Values("shm", "tcp"),
                         [](const auto& kind) { return std::string(kind.param); });

// UCX's own get, as with RDMA, but only the reader's side: over TCP the owner would not survive a killed reader.
INSTANTIATE_TEST_SUITE_P(get, paused, ::testing::Values("rdma"),
                         [](const auto& kind) { return std::string(kind.param); });
INSTANTIATE_TEST_SUITE_P(over, paused, ::testing::Values("shm", "tcp"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace troupe::transport::testing
