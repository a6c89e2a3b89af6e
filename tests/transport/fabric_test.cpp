// One suite over every fabric: the contract of transport/fabric.hpp.
#include "transport/fabric.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>

#include "base/hash.hpp"
#include "tests/transport/harness.hpp"
#include "transport/fence.hpp"

namespace troupe::transport::testing {
namespace {

constexpr incarnation reader_id{0xAAAA0001}, owner_id{0xBBBB0002};
constexpr std::size_t block_bytes = 36'864 + fence_bytes, blocks = 64;

struct fabric_suite : ::testing::TestWithParam<const char*> {
  std::unique_ptr<world> here = make_world(GetParam());
  std::vector<std::byte> foreign = std::vector<std::byte>(100'000, std::byte{0x3C});
  recorder reader_events, owner_events;
  std::unique_ptr<fabric> owner = here->make(owner_id, owner_events.sink());
  std::unique_ptr<fabric> reader = here->make(reader_id, reader_events.sink());
  region source, target;
  std::mt19937_64 random{7};

  void SetUp() override {
    ASSERT_TRUE(owner && reader);
    source = owner->allocate(block_bytes * blocks).value();
    target = reader->allocate(block_bytes * blocks).value();
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(source.data) % 4096, 0u);
    for (std::size_t i = 0; i < source.bytes; i += 8) {
      std::uint64_t word = random();
      std::memcpy(source.data + i, &word, std::min<std::size_t>(8, source.bytes - i));
    }
    std::memset(target.data, 0, target.bytes);
  }
  void connect() {
    ASSERT_TRUE(reader->connect(owner_id, owner->local_address().value()));
    ASSERT_TRUE(here->run_until(reader_events, [&] { return !reader_events.up().empty(); }));
    EXPECT_EQ(reader_events.up()[0].via, here->expected_path());
    EXPECT_EQ(reader_events.up()[0].peer, owner_id);
  }
  pull_request request(std::uint64_t op, std::vector<piece> pieces) {
    return {op_id{op}, owner_id, source.id, target.id, std::move(pieces), here->now() + 20s, false};
  }
  std::vector<pull_done> finish(std::size_t count) {
    EXPECT_TRUE(
        here->run_until(reader_events, [&] { return reader_events.done().size() >= count; }));
    return reader_events.done();
  }
  void pull_fenced_blocks();
  void pull_at_random();
  bool same(const piece& p) const {
    return std::memcmp(target.data + p.local_offset, source.data + p.remote_offset, p.bytes) == 0;
  }
};

TEST_P(fabric_suite, pulls_bytes) {
  connect();
  piece p{block_bytes * 3, block_bytes * 5, block_bytes};
  ASSERT_TRUE(reader->pull(request(1, {p})));
  auto done = finish(1);
  ASSERT_TRUE(done[0].outcome) << to_string(done[0].outcome.error());
  EXPECT_EQ(done[0].op, op_id{1});
  EXPECT_EQ(done[0].peer, owner_id);
  EXPECT_EQ(done[0].bytes, block_bytes);
  EXPECT_EQ(done[0].via, here->expected_path());
  EXPECT_GT(done[0].duration.count(), 0);
  EXPECT_TRUE(same(p));
  auto stats = reader->stats();
  EXPECT_EQ(stats.paths.at(here->expected_path()).bytes, block_bytes);
  EXPECT_EQ(stats.paths.at(here->expected_path()).pulls, 1u);
  EXPECT_GT(stats.paths.at(here->expected_path()).gigabytes_per_second(), 0);
  EXPECT_EQ(stats.pulls_running, 0u);
  EXPECT_EQ(stats.peers.at(owner_id), here->expected_path());
}

void fabric_suite::pull_fenced_blocks() {
  connect();
  std::vector<piece> pieces;
  std::vector<block_tag> tags;
  for (std::uint64_t i = 0; i < 16; ++i) {
    tags.push_back({owner_id, i + 1, 0xC0FFEE, 16});
    seal(source.span().subspan(i * block_bytes, block_bytes), tags[i]);
    pieces.push_back({i * block_bytes, (40 - i) * block_bytes, block_bytes});
  }
  auto asked = request(1, pieces);
  asked.checksum = true;
  ASSERT_TRUE(reader->pull(asked));
  auto done = finish(1);
  ASSERT_TRUE(done[0].outcome);
  ASSERT_EQ(done[0].checksums.size(), pieces.size());
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    auto copy = target.span().subspan(pieces[i].local_offset, block_bytes);
    EXPECT_TRUE(verify(copy, tags[i], done[0].checksums[i]));
    EXPECT_TRUE(verify(copy, tags[i]));
    auto stale = tags[i];
    ++stale.generation;
    EXPECT_EQ(verify(copy, stale, done[0].checksums[i]).error().code, ec::fence_mismatch);
  }
}

void fabric_suite::pull_at_random() {
  connect();
  constexpr std::size_t total = 10'000, slots = 32, slot_bytes = block_bytes * blocks / slots;
  struct running {
    piece p;
    std::size_t slot;
  };
  std::map<std::uint64_t, running> under_way;
  std::vector<std::size_t> free_slots(slots);
  for (std::size_t i = 0; i < slots; ++i) free_slots[i] = i;
  std::size_t started = 0, seen = 0;
  while (seen < total) {
    while (started < total && !free_slots.empty()) {
      std::size_t bytes = 1 + random() % (started % 8 == 0 ? slot_bytes : 4096),
                  slot = free_slots.back();
      piece p{random() % (source.bytes - bytes + 1), slot * slot_bytes, bytes};
      ASSERT_TRUE(reader->pull(request(started, {p})));
      under_way[started++] = {p, slot};
      free_slots.pop_back();
    }
    ASSERT_TRUE(here->run_until(reader_events, [&] { return reader_events.any_done(); }));
    for (const pull_done& done : reader_events.take_done()) {
      ASSERT_TRUE(done.outcome) << to_string(done.outcome.error());
      auto entry = under_way.extract(raw(done.op));
      ASSERT_FALSE(entry.empty()) << "a completion came twice";
      ASSERT_TRUE(same(entry.mapped().p)) << seen;
      free_slots.push_back(entry.mapped().slot);
      ++seen;
    }
  }
  EXPECT_TRUE(under_way.empty());
  EXPECT_EQ(reader->stats().paths.at(here->expected_path()).pulls, total);
}

TEST_P(fabric_suite, fenced_blocks_verify_with_the_sums_of_the_pull) {
  pull_fenced_blocks();
}
TEST_P(fabric_suite, ten_thousand_random_pulls_arrive_whole) {
  pull_at_random();
}

// UCX's own get, as over RDMA. Without such a device it runs over TCP, where it must not be interrupted
// (transport/README.md): so only pulls that go well.
struct get_suite : fabric_suite {};
TEST_P(get_suite, fenced_blocks_verify_with_the_sums_of_the_pull) {
  pull_fenced_blocks();
}
TEST_P(get_suite, ten_thousand_random_pulls_arrive_whole) {
  pull_at_random();
}

TEST_P(fabric_suite, pulls_wait_for_the_connection) {
  ASSERT_TRUE(reader->connect(owner_id, owner->local_address().value()));
  ASSERT_TRUE(reader->connect(owner_id, owner->local_address().value())) << "idempotent";
  piece p{0, 0, 100};
  ASSERT_TRUE(reader->pull(request(1, {p})));
  EXPECT_TRUE(finish(1)[0].outcome);
  EXPECT_TRUE(same(p));
  EXPECT_EQ(reader_events.up().size(), 1u);
}

TEST_P(fabric_suite, both_directions_at_once) {
  connect();
  ASSERT_TRUE(owner->connect(reader_id, reader->local_address().value()));
  std::size_t half = block_bytes * blocks / 2;
  ASSERT_TRUE(reader->pull(request(1, {{0, 0, half}})));
  ASSERT_TRUE(owner->pull(
      {op_id{1}, reader_id, target.id, source.id, {{half, half, half}}, here->now() + 20s, false}));
  EXPECT_TRUE(finish(1)[0].outcome);
  ASSERT_TRUE(here->run_until(owner_events, [&] { return owner_events.done().size() == 1; }));
  EXPECT_TRUE(owner_events.done()[0].outcome);
  EXPECT_EQ(std::memcmp(source.data, target.data, source.bytes), 0);
}

TEST_P(fabric_suite, a_node_can_pull_from_itself) {
  ASSERT_TRUE(owner->connect(owner_id, owner->local_address().value()));
  ASSERT_TRUE(owner->pull({op_id{1},
                           owner_id,
                           source.id,
                           source.id,
                           {{0, block_bytes, block_bytes}},
                           here->now() + 20s,
                           false}));
  ASSERT_TRUE(here->run_until(owner_events, [&] { return owner_events.done().size() == 1; }));
  EXPECT_TRUE(owner_events.done()[0].outcome);
  EXPECT_EQ(std::memcmp(source.data, source.data + block_bytes, block_bytes), 0);
}

TEST_P(fabric_suite, refuses_bad_pulls_at_the_call) {
  auto code = [&](pull_request r) {
    auto accepted = reader->pull(std::move(r));
    return accepted ? ec::none : accepted.error().code;
  };
  EXPECT_EQ(code(request(1, {{0, 0, 8}})), ec::not_found) << "no such peer";
  connect();
  constexpr std::uint64_t huge = ~std::uint64_t{0};
  std::uint64_t end = source.bytes;
  EXPECT_EQ(code(request(1, {})), ec::invalid_argument);
  EXPECT_EQ(code(request(1, {{0, 0, 0}})), ec::invalid_argument);
  EXPECT_EQ(code(request(1, {{end, 0, 1}})), ec::invalid_argument);
  EXPECT_EQ(code(request(1, {{0, end, 1}})), ec::invalid_argument);
  EXPECT_EQ(code(request(1, {{end - 1, 0, 2}})), ec::invalid_argument);
  EXPECT_EQ(code(request(1, {{8, 0, huge}})), ec::invalid_argument);
  EXPECT_EQ(code(request(1, {{huge, 0, 8}})), ec::invalid_argument);
  EXPECT_EQ(code(request(1, {{0, huge - 4, 8}})), ec::invalid_argument);
  EXPECT_EQ(code(request(1, {{0, 0, 8}, {0, end, 8}})), ec::invalid_argument);
  auto other = request(1, {{0, 0, 8}});
  other.remote = region_id{7};
  EXPECT_EQ(code(other), ec::not_found);
  other = request(1, {{0, 0, 8}}), other.local = region_id{7};
  EXPECT_EQ(code(other), ec::not_found);
  other = request(1, {{0, 0, 8}}), other.deadline = here->now();
  EXPECT_EQ(code(other), ec::deadline_exceeded);
  other = request(1, {{0, 0, fence_bytes}}), other.checksum = true;
  EXPECT_EQ(code(other), ec::invalid_argument);
  EXPECT_EQ(code(request(1, {{0, 0, 8}})), ec::none);
  finish(1);
  EXPECT_EQ(reader_events.done().size(), 1u) << "refused pulls have no completion";
}

TEST_P(fabric_suite, refuses_bad_addresses) {
  std::string good = owner->local_address().value();
  auto code = [&](incarnation peer, std::string_view text) {
    auto accepted = reader->connect(peer, text);
    return accepted ? ec::none : accepted.error().code;
  };
  EXPECT_EQ(code(incarnation{5}, good), ec::peer_lost) << "a restarted peer is another peer";
  EXPECT_EQ(code(owner_id, ""), ec::invalid_argument);
  EXPECT_EQ(code(owner_id, "nonsense that is long enough to be an address"), ec::invalid_argument);
  for (std::size_t n = 0; n < good.size(); ++n)
    ASSERT_NE(code(owner_id, std::string_view(good).substr(0, n)), ec::none) << n;
  for (std::size_t i = 0; i < 20'000; ++i) {
    std::string bad = good;
    for (std::size_t k = 0; k <= random() % 3; ++k)
      bad[random() % bad.size()] ^= static_cast<char>(1 + random() % 255);
    if (random() % 4 == 0)
      bad.insert(random() % bad.size(), 1 + random() % 40, static_cast<char>(random()));
    if (bad == good) continue;
    ASSERT_NE(code(owner_id, bad), ec::none);
  }
  for (char version : {'\2', '\11'}) {  // an older release, whose hellos have no key, and a newer
    std::string other = good;
    other[4] = version;
    const auto refused = reader->connect(owner_id, other);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ec::unsupported);
    EXPECT_THAT(refused.error().detail, ::testing::HasSubstr("run the same release on both"));
  }
  EXPECT_EQ(code(owner_id, good), ec::none);
}

TEST_P(fabric_suite, disconnect_ends_pulls_first_and_connect_works_again) {
  connect();
  for (std::uint64_t i = 0; i < 50; ++i)
    ASSERT_TRUE(reader->pull(request(i, {{0, 0, source.bytes}})));
  reader->disconnect(owner_id);
  ASSERT_TRUE(here->run_until(reader_events, [&] { return reader_events.down().size() == 1; }));
  EXPECT_EQ(reader_events.done().size(), 50u) << "before peer_down";
  EXPECT_EQ(reader_events.down()[0].reason.code, ec::canceled);
  for (const pull_done& done : reader_events.done())
    if (!done.outcome) {
      EXPECT_EQ(done.outcome.error().code, ec::canceled);
    }
  EXPECT_EQ(reader->pull(request(99, {{0, 0, 8}})).error().code, ec::not_found);
  EXPECT_EQ(reader->stats().peers_lost, 0u);
  ASSERT_TRUE(reader->connect(owner_id, owner->local_address().value()));
  ASSERT_TRUE(reader->pull(request(100, {{8, 0, 80}})));
  EXPECT_TRUE(finish(51)[50].outcome);
  EXPECT_TRUE(same({8, 0, 80}));
}

TEST_P(fabric_suite, cancel_ends_a_pull_once) {
  connect();
  for (std::uint64_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(reader->pull(request(i, {{0, 0, source.bytes}})));
    reader->cancel(op_id{i});
    reader->cancel(op_id{i});
  }
  reader->cancel(op_id{777});
  ASSERT_TRUE(reader->pull(request(500, {{0, 0, 8}})));
  auto done = finish(21);
  ASSERT_EQ(done.size(), 21u);
  std::set<std::uint64_t> ids;
  std::size_t canceled = 0;
  for (const pull_done& d : done) {
    EXPECT_TRUE(ids.insert(raw(d.op)).second);
    if (d.outcome) continue;
    EXPECT_EQ(d.outcome.error().code, ec::canceled);
    ++canceled;
  }
  EXPECT_GT(canceled, 0u);
  EXPECT_TRUE(reader_events.down().empty()) << "a cancel does not cost the connection";
}

TEST_P(fabric_suite, close_gives_every_accepted_pull_its_end) {
  connect();
  std::size_t accepted = 0;
  for (std::uint64_t i = 0; i < 200; ++i)
    if (reader->pull(request(i, {{0, 0, source.bytes}}))) ++accepted;
  reader->close();
  EXPECT_EQ(reader_events.done().size(), accepted);
  reader->close();
  EXPECT_EQ(reader->pull(request(1, {{0, 0, 8}})).error().code, ec::canceled);
  EXPECT_EQ(reader->connect(owner_id, owner->local_address().value()).error().code, ec::canceled);
  EXPECT_FALSE(reader->allocate(100));
  EXPECT_FALSE(reader->local_address());
}

TEST_P(fabric_suite, several_regions_and_foreign_memory) {
  region second = owner->register_memory(foreign.data(), foreign.size(), memory_kind::host).value();
  EXPECT_EQ(second.id, region_id{1});
  if (std::string(GetParam()) == "ucx_shm")
    return;  // heap memory cannot be mapped, and gets are off there
  connect();
  auto asked = request(1, {{500, 700, 99'000}});
  asked.remote = second.id;
  ASSERT_TRUE(reader->pull(asked));
  EXPECT_TRUE(finish(1)[0].outcome);
  EXPECT_EQ(std::memcmp(target.data + 700, foreign.data() + 500, 99'000), 0);
  asked.pieces = {{500, 700, 99'600}};
  EXPECT_EQ(reader->pull(asked).error().code, ec::invalid_argument);
}

TEST_P(fabric_suite, gpu_memory_without_cuda_names_the_way_out) {
  auto refused = owner->register_memory(source.data, 4096, memory_kind::cuda);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ec::unsupported);
}

INSTANTIATE_TEST_SUITE_P(over, fabric_suite, ::testing::Values("sim", "ucx_tcp", "ucx_shm"),
                         [](const auto& kind) { return std::string(kind.param); });

INSTANTIATE_TEST_SUITE_P(over, get_suite, ::testing::Values("ucx_rdma"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace troupe::transport::testing
