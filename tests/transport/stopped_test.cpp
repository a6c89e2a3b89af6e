// Peers that have stopped, gone or given up, and what they leave: nothing of theirs may keep others waiting, or bytes
// moving that nobody wants.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/transport/end.hpp"
#include "tests/transport/stranger.hpp"

namespace troupe::transport::testing {
namespace {

constexpr incarnation self{0x5E1F}, owner_id{0xA11CE};
constexpr std::size_t block = 64 * 1024, blocks = 64;

struct end : fabric_end {
  explicit end(incarnation id, std::shared_ptr<fake_device> with = nullptr,
               std::size_t slots = blocks, std::optional<path> forced = {})
      : fabric_end(id, std::move(with), {block * blocks, slots * block, forced}) {
    for (std::uint64_t i = 0; i < arena.bytes / 8; ++i) std::memcpy(arena.data + 8 * i, &i, 8);
  }
  node_address address() const { return decode_address(link->local_address().value()).value(); }

  result<void> pull(std::uint64_t op, incarnation from, std::size_t count,
                    std::chrono::milliseconds within, std::size_t first = 0) {
    pull_request request{op_id{op}, from, region_id{0}, arena.id, {}, clock::now() + within, false};
    for (std::size_t i = first; i < first + count; ++i)
      request.pieces.push_back({i * block, i * block, block});
    return link->pull(std::move(request));
  }
  // What came of a pull; it must end within a minute.
  result<void> ended(std::uint64_t op) {
    result<void> outcome = fail(ec::internal, "the pull did not end");
    events.wait(
        [&] {
          for (const pull_done& done : events.done())
            if (done.op == op_id{op}) {
              outcome = done.outcome;
              return true;
            }
          return false;
        },
        60s);
    return outcome;
  }
  // Everything there is at an owner who is well.
  void expect_whole(std::uint64_t op, const end& owner) {
    ASSERT_TRUE(link->connect(owner_id, owner.link->local_address().value()));
    ASSERT_TRUE(pull(op, owner_id, blocks, 10min));
    const auto outcome = ended(op);
    EXPECT_TRUE(outcome) << to_string(outcome.error());
    EXPECT_EQ(std::memcmp(arena.data, owner.arena.data, block * blocks), 0);
  }
  void connect(stranger& to) {
    ASSERT_TRUE(link->connect(incarnation{0xBAD}, to.address(block * blocks)));
    ASSERT_TRUE(to.run_until([&] { return !events.up().empty(); }));
  }
};

std::shared_ptr<fake_device> some_device() {
  return std::make_shared<fake_device>(fake_behaviour{.shares = false});
}

// -- a reader and its owners --------------------------------------------------------------------------------------------

// Into device memory: what is asked for holds a slot until it came.
TEST(stopped, owners_leave_slots_to_pulls_from_another) {
  stranger first(incarnation{0xBAD1}), second(incarnation{0xBAD2});
  end reader(self, some_device(), 8, path::staged_tcp);
  for (auto [owner, id] :
       {std::pair{&first, incarnation{0xBAD1}}, {&second, incarnation{0xBAD2}}}) {
    ASSERT_TRUE(reader.link->connect(id, owner->address(block * blocks)));
    const std::size_t up = reader.events.up().size();
    ASSERT_TRUE(owner->run_until([&] { return reader.events.up().size() > up; }));
    ASSERT_TRUE(reader.pull(raw(id), id, blocks, 10min));
    ASSERT_TRUE(owner->run_until([&] { return !owner->reads.empty(); }));
  }
  end healthy(owner_id);
  reader.expect_whole(1, healthy);
  EXPECT_EQ(reader.link->stats().pulls_running, 2u) << "the others still wait";
}

TEST(stopped, a_reader_that_gives_up_tells_the_owner) {
  stranger mute;
  end reader(self, nullptr, 0, path::tcp);
  reader.connect(mute);
  ASSERT_TRUE(reader.pull(1, incarnation{0xBAD}, 4, 10min));
  ASSERT_TRUE(reader.pull(2, incarnation{0xBAD}, 2, 10min, 4));
  ASSERT_TRUE(mute.run_until([&] { return mute.reads.size() == 6; }));
  for (const auto& read : mute.reads) {
    EXPECT_GT(read.within_ms, 60'000u);
    EXPECT_LE(read.within_ms, 600'000u);
  }
  reader.link->cancel(op_id{1});
  ASSERT_TRUE(mute.run_until([&] { return mute.reads_ended.size() == 4; }));
  EXPECT_EQ(reader.ended(1).error().code, ec::canceled);
  for (const auto& read : mute.reads)
    EXPECT_EQ(mute.reads_ended.contains(read.ticket), read.offset < 4 * block);
  reader.link->disconnect(incarnation{0xBAD});
  EXPECT_TRUE(mute.run_until([&] { return mute.reads_ended.size() == 6; }));
}

// -- an owner and its readers -------------------------------------------------------------------------------------------

// Reads until nothing more comes for a while. What fails here for want of time would fail as a success: never falsely.
void drain(stranger& reader) {
  auto quiet_since = clock::now();
  reader.run_until([&, before = std::uint64_t{0}]() mutable {
    if (std::exchange(before, reader.bytes_heard) != reader.bytes_heard) quiet_since = clock::now();
    return clock::now() > quiet_since + 500ms;
  });
}

class abandoned : public ::testing::TestWithParam<bool> {
 protected:
  end owner{owner_id, GetParam() ? some_device() : nullptr, blocks};
  stranger reader;
  static constexpr std::uint64_t count = 2000, large = 4 * block;  // 524 MB: sockets hold few of it

  void read_all(std::chrono::milliseconds within) {
    for (std::uint64_t i = 0; i < count; ++i) reader.read(i, i % 16 * large, large, within);
  }

  void SetUp() override {
    reader.call(owner.address());
    reader.be_welcomed();
  }
};

TEST_P(abandoned, reads_are_forgotten_when_their_reader_says_so) {
  read_all(10min);
  for (std::uint64_t i = 0; i < count; ++i)
    reader.send(ucx::message::end, ucx::end_header{reader.welcomed->client, i});
  reader.read(count, 0, 8);
  ASSERT_TRUE(reader.run_until([&] { return reader.tickets_heard.contains(count); }));
  drain(reader);
  EXPECT_LT(reader.bytes_heard, count * large / 2);
}

TEST_P(abandoned, reads_are_forgotten_when_their_reader_would_have_given_up) {
  read_all(1ms);
  std::this_thread::sleep_for(1s);  // it has stopped
  drain(reader);
  EXPECT_LT(reader.bytes_heard, count * large / 2);
  reader.read(count, 0, 8);
  EXPECT_TRUE(reader.run_until([&] { return reader.tickets_heard.contains(count); }));
}

INSTANTIATE_TEST_SUITE_P(of, abandoned, ::testing::Bool(), [](const auto& is_device) {
  return std::string(is_device.param ? "device" : "host");
});

TEST(stopped, readers_leave_slots_to_another) {
  end owner(owner_id, some_device(), 8);
  stranger first(incarnation{0xBAD1}), second(incarnation{0xBAD2});
  for (stranger* stopped : {&first, &second}) {
    stopped->call(owner.address());
    stopped->be_welcomed();
    for (std::uint64_t i = 0; i < 1000; ++i) stopped->read(i, i % blocks * block, block);
  }
  end reader(self);
  reader.expect_whole(1, owner);
}

TEST(stopped, a_reader_that_is_gone_leaves_its_slot_to_those_who_wait) {
  end owner(owner_id, some_device(), 1);
  auto gone = std::make_unique<stranger>();
  stranger waits(incarnation{0xBAD2});
  gone->call(owner.address());
  gone->be_welcomed();
  for (std::uint64_t i = 0; i < 1000; ++i) gone->read(i, i % blocks * block, block);
  waits.call(owner.address());
  waits.be_welcomed();
  waits.read(1, 0, block);
  gone.reset();
  EXPECT_TRUE(waits.run_until([&] { return waits.bytes_heard == block; }));
}

TEST(stopped, an_owner_whose_device_is_lost_closes_in_order) {
  log_lines log;
  {
    end owner(owner_id, some_device(), 8);
    stranger reader;
    reader.call(owner.address());
    reader.be_welcomed();
    owner.device->lose();
    const std::size_t before = owner.device->batches();
    reader.read(1, 0, block);
    ASSERT_TRUE(reader.run_until([&] { return owner.device->batches() > before; }));
    owner.link->close();
  }
  EXPECT_EQ(log.count("memory stays mapped"), 0u);
}

TEST(stopped, pinned_memory_is_given_back_when_nothing_is_staged) {
  ucx_options options;
  options.self = owner_id;
  options.device = some_device();
  options.staging_rest = 100ms;
  const auto device = std::static_pointer_cast<fake_device>(options.device);
  recorder events;
  auto link = std::move(make_ucx_fabric(options, events.sink()).value());
  const auto memory = device->allocate(block);
  ASSERT_TRUE(link->register_memory(memory.data(), memory.size(), memory_kind::cuda));
  stranger reader;
  reader.call(decode_address(link->local_address().value()).value());
  reader.be_welcomed();
  reader.read(1, 0, block);
  ASSERT_TRUE(reader.run_until([&] { return reader.bytes_heard == block; }));
  EXPECT_TRUE(events.wait([&] { return device->pinned() == 0; }, 60s))
      << "though nobody asks anything";
  reader.read(2, 0, block);
  EXPECT_TRUE(reader.run_until([&] { return reader.bytes_heard == 2 * block; }));
  link->close();
}

// -- paths that are slower than they could be ---------------------------------------------------------------------------

const std::map<path, std::uint64_t> one_over_tcp{{path::tcp, 1}};

TEST(downgrade, memory_that_cannot_be_mapped_is_told_of) {
  log_lines log;
  {
    end owner(owner_id), reader(self);
    node_address shown = owner.address();
    ++shown.regions.at(0)
          .share.inode;  // as if /proc were not to be read: another user, a container
    ASSERT_TRUE(reader.link->connect(owner_id, encode(shown)));
    ASSERT_TRUE(reader.pull(1, owner_id, blocks, 10min));
    EXPECT_TRUE(reader.ended(1));
    EXPECT_EQ(reader.events.up().at(0).via, path::tcp);
    EXPECT_EQ(reader.link->stats().slow_peers, one_over_tcp);
    reader.link->disconnect(owner_id);
    ASSERT_TRUE(reader.events.wait([&] { return !reader.events.down().empty(); }, 60s));
    EXPECT_TRUE(reader.link->stats().slow_peers.empty()) << "it is gone";
  }
  EXPECT_EQ(log.count("cannot be mapped: /proc/"), 1u);
}

TEST(downgrade, a_container_of_its_own_is_told_of) {
  log_lines log;
  {
    end owner(owner_id), reader(self);
    node_address shown = owner.address();
    shown.host = shown.host.substr(0, shown.host.find(' ')) + " pid:[1] ipc:[2]";
    ASSERT_TRUE(reader.link->connect(owner_id, encode(shown)));
    ASSERT_TRUE(reader.events.wait([&] { return !reader.events.up().empty(); }, 60s));
    EXPECT_EQ(reader.link->stats().slow_peers, one_over_tcp);
  }
  EXPECT_EQ(log.count("in another container"), 1u);
}

TEST(downgrade, what_is_as_fast_as_can_be_is_not_told_of) {
  log_lines log;
  {
    end owner(owner_id), reader(self);
    ASSERT_TRUE(reader.link->connect(owner_id, owner.link->local_address().value()));
    ASSERT_TRUE(reader.events.wait([&] { return !reader.events.up().empty(); }, 60s));
    EXPECT_EQ(reader.events.up().at(0).via, path::shm);
    stranger far;  // on another host TCP is no downgrade
    ASSERT_TRUE(reader.link->connect(incarnation{0xBAD}, far.address(block)));
    ASSERT_TRUE(far.run_until([&] { return reader.events.up().size() == 2; }));
    EXPECT_TRUE(reader.link->stats().slow_peers.empty());
  }
  EXPECT_EQ(log.count("which is slow"), 0u);
}

}  // namespace
}  // namespace troupe::transport::testing
