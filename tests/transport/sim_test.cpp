// What only the simulated fabric does: faults from a seed, the same again from the same seed, and its mutations.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "base/hash.hpp"
#include "tests/transport/harness.hpp"
#include "transport/fence.hpp"

namespace troupe::transport::testing {
namespace {

constexpr incarnation reader_id{1}, owner_id{2};
constexpr std::size_t payload_bytes = 1024, block_bytes = payload_bytes + fence_bytes, blocks = 32;

// A reader that pulls random blocks of an owner that sometimes rewrites them, and checks every promise.
class simulation {
 public:
  explicit simulation(std::uint64_t seed) : network(make_sim_network(seed, time_point(1s))) {
    owner = network->make_fabric(owner_id, [](event&&) {});
    reader = network->make_fabric(reader_id, [this](event&& e) { hear(std::move(e)); });
    source = owner->allocate(blocks * block_bytes).value();
    target = reader->allocate(blocks * block_bytes).value();
    for (std::size_t i = 0; i < blocks; ++i) rewrite(i);
    EXPECT_TRUE(reader->connect(owner_id, owner->local_address().value()));
  }

  void run_for(std::chrono::nanoseconds span) { network->advance(network->now() + span); }
  void rewrite(std::size_t block) {
    auto bytes = source.span().subspan(block * block_bytes, block_bytes);
    invalidate(bytes);
    ++generations[block];
    std::memset(bytes.data(), static_cast<int>(block * 31 + generations[block]), payload_bytes);
    seal(bytes, tag(generations[block]));
  }
  block_tag tag(std::uint64_t generation) const { return {owner_id, generation, 7, 16}; }
  // Pulls a block into the same place here.
  bool pull(std::size_t block, std::chrono::nanoseconds within) {
    pull_request r{op_id{next_op},
                   owner_id,
                   source.id,
                   target.id,
                   {{block * block_bytes, block * block_bytes, block_bytes}},
                   network->now() + within,
                   true};
    if (!reader->pull(std::move(r))) return false;
    under_way[next_op++] = {block, generations[block]};
    return true;
  }
  void hear(event&& e) {
    log += std::to_string(network->now().time_since_epoch().count()) + ' ';
    if (auto* done = std::get_if<pull_done>(&e)) {
      log += "done " + std::to_string(raw(done->op)) +
             (done->outcome ? " ok\n" : " " + to_string(done->outcome.error()) + '\n');
      auto entry = under_way.extract(raw(done->op));
      if (entry.empty()) {
        ++duplicates;
        return;
      }
      if (!done->outcome) {
        ++failures[done->outcome.error().code];
        return;
      }
      auto [block, generation] = entry.mapped();
      auto copy = target.span().subspan(block * block_bytes, block_bytes);
      if (verify(copy, tag(generation), done->checksums.at(0))) {
        ++verified;
        auto expected = static_cast<std::byte>(block * 31 + generation);
        for (std::size_t i = 0; i < payload_bytes; ++i)
          if (copy[i] != expected) ++wrong;
      } else {
        ++refused;
      }
    } else if (auto* down = std::get_if<peer_down>(&e)) {
      log += "down " + to_string(down->reason) + '\n';
      ++downs;
    } else {
      log += "up\n";
    }
  }

  region source, target;
  std::map<std::size_t, std::uint64_t> generations;
  std::map<std::uint64_t, std::pair<std::size_t, std::uint64_t>> under_way;
  std::map<ec, std::size_t> failures;
  std::uint64_t next_op = 0;
  std::size_t verified = 0, refused = 0, wrong = 0, duplicates = 0, downs = 0;
  std::string log;
  // Last: closing them still delivers events.
  std::unique_ptr<sim_network> network;
  std::unique_ptr<fabric> owner, reader;
};

sim_faults everything_wrong() {
  sim_faults faults;
  faults.drop = 0.02;
  faults.corrupt = 0.05;
  faults.truncate = 0.05;
  faults.late = 0.1;
  faults.fail = 0.03;
  return faults;
}

std::string run_one(std::uint64_t seed, simulation** keep = nullptr) {
  static std::unique_ptr<simulation> last;
  last = std::make_unique<simulation>(seed);
  simulation& s = *last;
  s.network->faults() = everything_wrong();
  std::string address = s.owner->local_address().value();
  for (std::size_t i = 0; i < 400; ++i) {
    std::size_t block = (seed + i * 7) % blocks;
    bool busy = false;
    for (const auto& [op, what] : s.under_way) busy |= what.first == block;
    if (!busy && !s.pull(block, 20ms)) (void)s.reader->connect(owner_id, address);
    if (i % 5 == 0) s.rewrite((seed + i * 3) % blocks);
    s.run_for(60us);
  }
  s.run_for(2s);
  if (keep != nullptr) *keep = &s;
  return s.log;
}

TEST(sim, a_seed_replays_to_the_letter_and_another_does_not) {
  for (std::uint64_t seed = 1; seed < 20; ++seed) EXPECT_EQ(run_one(seed), run_one(seed));
  EXPECT_NE(run_one(1), run_one(2));
}

TEST(sim, whatever_goes_wrong_no_wrong_block_verifies_and_every_pull_ends_once) {
  std::size_t verified = 0, refused = 0;
  std::map<ec, std::size_t> failures;
  for (std::uint64_t seed = 100; seed < 400; ++seed) {
    simulation* s = nullptr;
    run_one(seed, &s);
    EXPECT_EQ(s->wrong, 0u) << seed;
    EXPECT_EQ(s->duplicates, 0u) << seed;
    EXPECT_TRUE(s->under_way.empty()) << seed;
    EXPECT_EQ(s->reader->stats().pulls_running, 0u);
    verified += s->verified;
    refused += s->refused;
    for (auto [code, count] : s->failures) failures[code] += count;
  }
  EXPECT_GT(verified, 3'000u);
  EXPECT_GT(refused, 1'000u);
  EXPECT_GT(failures[ec::deadline_exceeded], 100u);
  EXPECT_GT(failures[ec::io_error], 100u);
  EXPECT_GT(failures[ec::peer_lost], 100u) << "siblings of a pull that missed its deadline";
}

TEST(sim, a_killed_owner_is_noticed_or_costs_the_deadline) {
  simulation told(1), silent(1);
  for (simulation* s : {&told, &silent}) {
    s->run_for(10ms);
    s->network->faults().gigabytes_per_second = 0.0001;  // 10 ms a block
    ASSERT_TRUE(s->pull(0, 100ms));
  }
  told.run_for(2ms), silent.run_for(2ms);
  told.network->kill(owner_id, 1ms);
  silent.network->kill(owner_id, std::nullopt);
  told.run_for(50ms), silent.run_for(50ms);
  EXPECT_EQ(told.failures[ec::peer_lost], 1u);
  EXPECT_EQ(told.downs, 1u);
  EXPECT_EQ(silent.under_way.size(), 1u);
  silent.run_for(100ms);
  EXPECT_EQ(silent.failures[ec::deadline_exceeded], 1u);
  // A new start of the node is another peer.
  auto again = told.network->make_fabric(incarnation{3}, [](event&&) {});
  ASSERT_TRUE(again->allocate(blocks * block_bytes));
  EXPECT_EQ(told.reader->connect(owner_id, again->local_address().value()).error().code,
            ec::peer_lost);
  EXPECT_TRUE(told.reader->connect(incarnation{3}, again->local_address().value()));
}

TEST(sim, pauses_and_cuts_delay_and_end) {
  simulation s(4);
  s.run_for(10ms);
  s.network->pause(owner_id, s.network->now() + 30ms);
  ASSERT_TRUE(s.pull(1, 1s));
  s.run_for(29ms);
  EXPECT_EQ(s.verified, 0u);
  s.run_for(5ms);
  EXPECT_EQ(s.verified, 1u);
  s.network->cut(reader_id, owner_id, true);
  ASSERT_TRUE(s.pull(2, 1s));
  s.run_for(200ms);
  EXPECT_EQ(s.verified, 1u);
  s.network->cut(reader_id, owner_id, false);
  s.run_for(5ms);
  EXPECT_EQ(s.verified, 2u);
}

TEST(sim, memory_and_connections_can_be_refused) {
  simulation s(5);
  s.network->faults().refuse_memory = 1;
  EXPECT_EQ(s.owner->allocate(100).error().code, ec::out_of_memory);
  s.network->faults().connect_fail = 1;
  simulation other(6);
  other.network->faults().connect_fail = 1;
  other.run_for(10ms);
  EXPECT_EQ(other.downs, 1u);
}

TEST(sim, mutations_are_visible) {
  simulation twice(7);
  twice.run_for(10ms);
  twice.network->faults().duplicate_completion = 1;
  ASSERT_TRUE(twice.pull(0, 1s));
  twice.run_for(50ms);
  EXPECT_EQ(twice.duplicates, 1u);

  simulation late(8);
  late.run_for(10ms);
  late.network->faults().write_after_done = 1;
  ASSERT_TRUE(late.pull(0, 1s));
  while (late.verified == 0) late.run_for(1us);
  std::memset(late.target.data, 0x11, block_bytes);
  late.run_for(50ms);
  EXPECT_NE(late.target.data[0], std::byte{0x11}) << "bytes landed in memory that was free";
}

}  // namespace
}  // namespace troupe::transport::testing
