// Pulls with device memory at one end or both, over the real fabric: which path is chosen, that every block arrives and
// verifies, and what becomes of a pull whose peer or device dies. A fake device stands in for the GPU.
#include <gtest/gtest.h>

#include <signal.h>

#include <thread>

#include "tests/transport/child.hpp"
#include "tests/transport/end.hpp"
#include "transport/fence.hpp"

namespace troupe::transport::testing {
namespace {

constexpr incarnation owner_id{0xA11CE}, reader_id{0xB0B};
constexpr std::size_t block_bytes = 192 * 1024 + 64, num_blocks = 24;

block_tag tag_of_block(std::size_t i) {
  return {owner_id, i + 1, 77, 16};
}

struct end : fabric_end {
  end(incarnation self, std::shared_ptr<fake_device> with, std::size_t staging_bytes = 4u << 20,
      std::optional<path> forced = {})
      : fabric_end(self, std::move(with), {num_blocks * block_bytes, staging_bytes, forced}) {}
  std::span<std::byte> block(std::size_t i) const {
    return arena.span().subspan(i * block_bytes, block_bytes);
  }
  void fill_and_seal() {
    for (std::size_t i = 0; i < num_blocks; ++i) {
      auto b = block(i);
      for (std::size_t at = 0; at < block_bytes - fence_bytes; at += 8) {
        const std::uint64_t word = i * 1'000'003 + at;
        std::memcpy(b.data() + at, &word, 8);
      }
      seal(b, tag_of_block(i));
    }
  }
};

// Block i of the owner goes to block num_blocks - 1 - i of the reader.
pull_request whole_arena(const end& reader, std::chrono::milliseconds limit = 20s) {
  pull_request r{op_id{1}, owner_id, region_id{0}, reader.arena.id, {}, clock::now() + limit, true};
  for (std::size_t i = 0; i < num_blocks; ++i)
    r.pieces.push_back({i * block_bytes, (num_blocks - 1 - i) * block_bytes, block_bytes});
  return r;
}

void expect_all_verify(const end& reader, const pull_done& done) {
  ASSERT_TRUE(done.outcome.has_value()) << to_string(done.outcome.error());
  ASSERT_EQ(done.checksums.size(), num_blocks);
  ASSERT_EQ(done.fences.size(), reader.device == nullptr ? 0 : num_blocks);
  for (std::size_t i = 0; i < num_blocks; ++i) {
    const auto copy = reader.block(num_blocks - 1 - i);
    auto whole = verify(copy, tag_of_block(i));
    EXPECT_TRUE(whole.has_value()) << to_string(whole.error());
    EXPECT_EQ(done.checksums[i], payload_checksum(copy.first(block_bytes - fence_bytes)));
    if (reader.device == nullptr) continue;
    auto told = verify_fence(done.fences[i], tag_of_block(i), done.checksums[i]);
    EXPECT_TRUE(told.has_value()) << to_string(told.error());
  }
}

struct ends {
  const char* name;
  bool owner_device, reader_device, shares;
  std::optional<path> forced;
  path expected;
};
class device_paths : public ::testing::TestWithParam<ends> {};

TEST_P(device_paths, every_block_arrives_and_verifies) {
  const ends& p = GetParam();
  const auto device = [&](bool wanted) {
    return wanted ? std::make_shared<fake_device>(fake_device::behaviour{.shares = p.shares})
                  : nullptr;
  };
  // Room for four blocks, so that the pipeline must wait for slots.
  end owner(owner_id, device(p.owner_device), 4 * (block_bytes + 4096), p.forced),
      reader(reader_id, device(p.reader_device), 4 * (block_bytes + 4096), p.forced);
  owner.fill_and_seal();
  ASSERT_TRUE(reader.link->connect(owner_id, owner.link->local_address().value()).has_value());
  ASSERT_TRUE(reader.link->pull(whole_arena(reader)).has_value());
  ASSERT_TRUE(reader.events.wait([&] { return reader.events.any_done(); }, 20s));
  expect_all_verify(reader, reader.events.done()[0]);
  EXPECT_EQ(to_string(reader.events.done()[0].via), to_string(p.expected));
  ASSERT_EQ(reader.events.up().size(), 1u);
  EXPECT_EQ(to_string(reader.events.up()[0].via), to_string(p.expected));
  EXPECT_EQ(reader.link->stats().paths.at(p.expected).bytes, num_blocks * block_bytes);
  EXPECT_EQ(reader.link->stats().slow_peers.contains(p.expected), p.expected != path::cuda_ipc);
}

INSTANTIATE_TEST_SUITE_P(
    all, device_paths,
    ::testing::Values(
        ends{"device_to_device", true, true, true, {}, path::cuda_ipc},
        ends{"device_to_device_that_cannot_open_it", true, true, false, {}, path::staged_tcp},
        ends{"device_to_device_of_another_host", true, true, true, path::staged_tcp,
             path::staged_tcp},
        ends{"host_to_device", false, true, true, {}, path::staged_shm},
        ends{"host_to_device_of_another_host", false, true, true, path::staged_tcp,
             path::staged_tcp},
        ends{"device_to_host", true, false, true, {}, path::staged_tcp}),
    [](const auto& i) { return std::string(i.param.name); });

TEST(device_pull, a_node_reads_its_own_device_memory) {
  end both(owner_id, std::make_shared<fake_device>());
  both.fill_and_seal();
  ASSERT_TRUE(both.link->connect(owner_id, both.link->local_address().value()).has_value());
  pull_request r{
      op_id{1},           owner_id, region_id{0}, both.arena.id, {{0, block_bytes, block_bytes}},
      clock::now() + 10s, true};
  ASSERT_TRUE(both.link->pull(std::move(r)).has_value());
  ASSERT_TRUE(both.events.wait([&] { return both.events.any_done(); }, 10s));
  const auto done = both.events.done()[0];
  ASSERT_TRUE(done.outcome.has_value());
  EXPECT_EQ(done.via, path::local);
  EXPECT_TRUE(verify_fence(done.fences[0], tag_of_block(0), done.checksums[0]).has_value());
}

// CUDA takes half a second for 60 GB.
TEST(device_pull, pulls_go_on_while_the_memory_of_another_peer_is_opened) {
  constexpr incarnation other_id{0xCAFE};
  end owner(owner_id, std::make_shared<fake_device>()),
      other(other_id, std::make_shared<fake_device>()),
      reader(reader_id, std::make_shared<fake_device>());
  owner.fill_and_seal();
  other.fill_and_seal();
  ASSERT_TRUE(reader.link->connect(owner_id, owner.link->local_address().value()).has_value());
  ASSERT_TRUE(reader.events.wait([&] { return reader.events.up().size() == 1; }, 10s));
  reader.device->hold_opening();
  ASSERT_TRUE(reader.link->connect(other_id, other.link->local_address().value()).has_value());
  auto waits = whole_arena(reader);
  waits.op = op_id{2}, waits.peer = other_id;
  ASSERT_TRUE(reader.link->pull(std::move(waits)).has_value());
  ASSERT_TRUE(reader.link->pull(whole_arena(reader)).has_value());
  const bool went_on = reader.events.wait([&] { return reader.events.any_done(); }, 10s);
  const auto first = reader.events.done();
  const auto up = reader.events.up().size();
  reader.device->release_opening();
  ASSERT_TRUE(went_on);
  EXPECT_EQ(up, 1u);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].peer, owner_id);
  EXPECT_TRUE(first[0].outcome.has_value());
  ASSERT_TRUE(reader.events.wait([&] { return reader.events.done().size() == 2; }, 20s));
  const auto second = reader.events.done()[1];
  ASSERT_TRUE(second.outcome.has_value()) << to_string(second.outcome.error());
  EXPECT_EQ(to_string(second.via), to_string(path::cuda_ipc));
}

TEST(device_pull, memory_of_a_peer_that_went_is_not_kept_open) {
  end owner(owner_id, std::make_shared<fake_device>()),
      reader(reader_id, std::make_shared<fake_device>());
  owner.fill_and_seal();
  const auto address = owner.link->local_address().value();
  reader.device->hold_opening();
  ASSERT_TRUE(reader.link->connect(owner_id, address).has_value());
  ASSERT_TRUE(reader.link->pull(whole_arena(reader)).has_value());
  reader.link->disconnect(owner_id);
  const bool ended = reader.events.wait([&] { return reader.events.down().size() == 1; }, 10s);
  reader.device->release_opening();
  ASSERT_TRUE(ended);
  ASSERT_EQ(reader.events.done().size(), 1u);
  EXPECT_FALSE(reader.events.done()[0].outcome.has_value());
  // It is asked for once more, behind what was under way.
  ASSERT_TRUE(reader.link->connect(owner_id, address).has_value());
  ASSERT_TRUE(reader.events.wait([&] { return reader.events.up().size() == 1; }, 10s));
  reader.link->disconnect(owner_id);
  ASSERT_TRUE(reader.events.wait([&] { return reader.events.down().size() == 2; }, 10s));
  const auto closed = [&] { return reader.device->opened() == 0; };
  for (const auto end = clock::now() + 10s; !closed() && clock::now() < end;)
    std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(closed());
}

TEST(device_pull, device_memory_without_its_device_is_refused) {
  ucx_options options;
  options.self = owner_id;
  auto link = std::move(make_ucx_fabric(options, [](event&&) {}).value());
  std::byte memory[64];
  const auto made = link->register_memory(memory, sizeof memory, memory_kind::cuda);
  ASSERT_FALSE(made.has_value());
  EXPECT_EQ(made.error().code, ec::unsupported);
  link->close();
}

// The promise: after pull_done nothing writes, so a pull that its deadline ends waits for what the device has begun.
TEST(device_pull, deadline_ends_a_pull_after_its_batches) {
  end owner(owner_id, std::make_shared<fake_device>());
  end reader(reader_id, std::make_shared<fake_device>(fake_device::behaviour{.delay = 200ms}));
  owner.fill_and_seal();
  ASSERT_TRUE(reader.link->connect(owner_id, owner.link->local_address().value()).has_value());
  ASSERT_TRUE(reader.link->pull(whole_arena(reader, 100ms)).has_value());
  ASSERT_TRUE(reader.events.wait([&] { return reader.events.any_done(); }, 10s));
  const auto done = reader.events.done()[0];
  ASSERT_FALSE(done.outcome.has_value());
  EXPECT_EQ(done.outcome.error().code, ec::deadline_exceeded);
  std::memset(reader.arena.data, 0, reader.arena.bytes);
  std::this_thread::sleep_for(300ms);
  for (std::size_t i = 0; i < reader.arena.bytes; i += 64)
    ASSERT_EQ(reader.arena.data[i], std::byte{0});
  EXPECT_TRUE(reader.events.down().empty()) << "the peer's other pulls go on";
}

TEST(device_pull, a_lost_device_ends_pulls_at_their_deadline) {
  const auto lost = std::make_shared<fake_device>();
  end owner(owner_id, std::make_shared<fake_device>()), reader(reader_id, lost);
  owner.fill_and_seal();
  ASSERT_TRUE(reader.link->connect(owner_id, owner.link->local_address().value()).has_value());
  ASSERT_TRUE(reader.events.wait([&] { return !reader.events.up().empty(); }, 10s));
  lost->lose();
  ASSERT_TRUE(reader.link->pull(whole_arena(reader, 100ms)).has_value());
  ASSERT_TRUE(reader.events.wait([&] { return reader.events.any_done(); }, 10s));
  EXPECT_EQ(reader.events.done()[0].outcome.error().code, ec::deadline_exceeded);
  EXPECT_EQ(reader.link->stats().pulls_running, 0u);
}

// An owner on another process's device, killed at any moment of a pull.
class device_owner_killed : public ::testing::TestWithParam<std::string> {};

TEST_P(device_owner_killed, ends_the_pull_and_leaves_the_reader_well) {
  for (const int after_ms : {0, 3, 20, 60}) {
    child owner("device_owner", "", GetParam());
    const std::string address = from_hex_text(owner.hear());
    ASSERT_FALSE(address.empty());
    end reader(reader_id, std::make_shared<fake_device>(fake_device::behaviour{.delay = 10ms}),
               4u << 20,
               GetParam() == "staged_tcp" ? std::optional(path::staged_tcp) : std::nullopt);
    ASSERT_TRUE(reader.link->connect(owner_id, address).has_value());
    ASSERT_TRUE(reader.link->pull(whole_arena(reader, 60s)).has_value());
    std::this_thread::sleep_for(std::chrono::milliseconds(after_ms));
    owner.signal(SIGKILL);
    ASSERT_TRUE(reader.events.wait([&] { return reader.events.any_done(); }, 30s));
    const auto done = reader.events.done()[0];
    if (done.outcome) {  // it was faster
      expect_all_verify(reader, done);
    } else {
      EXPECT_EQ(done.outcome.error().code, ec::peer_lost) << to_string(done.outcome.error());
    }
    // It goes by itself.
    ASSERT_TRUE(reader.events.wait([&] { return !reader.events.down().empty(); }, 30s));
    EXPECT_EQ(reader.events.down()[0].reason.code, ec::peer_lost);
    EXPECT_EQ(reader.link->stats().pulls_running, 0u);
    EXPECT_EQ(reader.link->stats().peers_lost, 1u);
    // The reader serves on.
    end other(incarnation{9}, std::make_shared<fake_device>());
    ASSERT_TRUE(
        reader.link->connect(incarnation{9}, other.link->local_address().value()).has_value());
    pull_request next = whole_arena(reader);
    next.peer = incarnation{9};
    next.op = op_id{2};
    other.fill_and_seal();
    ASSERT_TRUE(reader.link->pull(std::move(next)).has_value());
    ASSERT_TRUE(reader.events.wait([&] { return reader.events.done().size() == 2; }, 30s));
    expect_all_verify(reader, reader.events.done()[1]);
  }
}
INSTANTIATE_TEST_SUITE_P(all, device_owner_killed, ::testing::Values("cuda_ipc", "staged_tcp"));

// A role of child.cpp's kind: shows an arena in "device" memory and waits to be killed.
TEST(child, DISABLED_device_owner) {
  end owner(owner_id, std::make_shared<fake_device>());
  owner.fill_and_seal();
  const std::string line = to_hex_text(owner.link->local_address().value()) + '\n';
  ASSERT_EQ(::write(3, line.data(), line.size()), static_cast<ssize_t>(line.size()));
  std::this_thread::sleep_for(10min);  // its parent ends it
}

}  // namespace
}  // namespace troupe::transport::testing
