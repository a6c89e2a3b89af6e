// Who may read: a stranger at the transport's port, who speaks its messages but lacks the owner's key, gets no answer, no
// byte and no memory; who has the key is served as before.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "tests/transport/stranger.hpp"

namespace troupe::transport::testing {
namespace {

using ::testing::HasSubstr;
using ucx::message;

constexpr incarnation owner_id{0xA11CE}, reader_id{0xB0B};
constexpr std::uint32_t in_ten_minutes = 600'000;
const std::string secret = "of the cluster, 16 or more";

struct owner_end {
  explicit owner_end(const std::string& of_cluster = secret) {
    ucx_options options;
    options.self = owner_id;
    options.secret = of_cluster;
    options.force_path = path::tcp;
    link = std::move(make_ucx_fabric(options, events.sink()).value());
    arena = link->allocate(1 << 20).value();
    for (std::uint64_t i = 0; i < arena.bytes / 8; ++i) std::memcpy(arena.data + 8 * i, &i, 8);
    address = decode_address(link->local_address().value()).value();
  }
  std::uint64_t refused(refusal why) const { return link->stats().hellos_refused[why]; }
  bool counts(refusal why, std::uint64_t count) {
    return events.wait([&] { return refused(why) == count; }, 20s);
  }

  recorder events;
  std::unique_ptr<fabric> link;
  region arena;
  node_address address;
};

struct reader_end {
  // `patience`: how long it waits for an owner that does not answer it.
  explicit reader_end(const std::string& of_cluster = secret,
                      std::chrono::milliseconds patience = 30s) {
    ucx_options options;
    options.self = reader_id;
    options.secret = of_cluster;
    options.force_path = path::tcp;
    options.connect_timeout = patience;
    link = std::move(make_ucx_fabric(options, events.sink()).value());
    arena = link->allocate(1 << 20).value();
  }
  // Connects and pulls the whole arena; what came of it.
  result<void> read_all(const std::string& address) {
    TROUPE_CHECK(link->connect(owner_id, address));
    TROUPE_CHECK(link->pull({op_id{next_op++},
                             owner_id,
                             region_id{0},
                             arena.id,
                             {{0, 0, arena.bytes}},
                             clock::now() + 50s,
                             false}));
    if (!events.wait([&] { return events.done().size() == next_op; }, 60s))
      return fail(ec::internal, "a pull did not end");
    return events.done().back().outcome;
  }

  recorder events;
  std::unique_ptr<fabric> link;
  region arena;
  std::uint64_t next_op = 0;
};

TEST(hello, a_reader_with_another_secret_gets_nothing_and_the_right_one_is_served) {
  owner_end owner;
  const std::string address = owner.link->local_address().value();
  reader_end other("of another cluster, as long", 500ms), none("", 500ms), right;
  for (reader_end* wrong : {&other, &none}) {
    std::memset(wrong->arena.data, 0x77, wrong->arena.bytes);
    const auto outcome = wrong->read_all(address);
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().code, ec::peer_lost);
    ASSERT_TRUE(wrong->events.wait([&] { return !wrong->events.down().empty(); }, 20s));
    EXPECT_EQ(wrong->events.down()[0].reason.code, ec::deadline_exceeded);
    EXPECT_THAT(wrong->events.down()[0].reason.detail, HasSubstr("secret"));
    EXPECT_TRUE(wrong->events.up().empty());
    EXPECT_EQ(wrong->arena.data[4711], std::byte{0x77});
  }
  EXPECT_TRUE(owner.counts(refusal::wrong_key, 2));
  const auto served = right.read_all(address);
  ASSERT_TRUE(served) << to_string(served.error());
  EXPECT_EQ(std::memcmp(right.arena.data, owner.arena.data, owner.arena.bytes), 0);
  EXPECT_EQ(owner.refused(refusal::wrong_key), 2u);
}

TEST(hello, an_address_of_another_start_opens_nothing) {
  owner_end owner;
  reader_end reader(secret, 500ms);
  node_address before =
      owner.address;  // the same port, another nonce: this process was started again
  before.nonce[3] ^= std::byte{1};
  EXPECT_FALSE(reader.read_all(encode(before)));
  EXPECT_TRUE(owner.counts(refusal::wrong_key, 1));
}

TEST(hello, what_a_key_depends_on) {
  owner_end owner;
  const hello_key key = key_of(owner.address, secret);
  EXPECT_EQ(key, key_of(owner.address, secret));
  EXPECT_NE(key, key_of(owner.address, secret + "x"));
  node_address lured = owner.address;  // somebody who repeats the nonce at a worker of his own
  lured.worker.back() ^= 1;
  EXPECT_NE(key, key_of(lured, secret));
  lured = owner.address;
  lured.owner = reader_id;
  EXPECT_NE(key, key_of(lured, secret));
  EXPECT_NE(owner.address.nonce, owner_end().address.nonce) << "new at each start";
}

TEST(hello, a_stranger_gets_no_answer_and_no_byte) {
  owner_end owner;
  stranger bad;
  bad.call(owner.address);
  // An address that UCX would choke on, so that a look at it shows.
  hello_key key = key_of(owner.address, "a guess of the secret");
  bad.send_hello(key, std::string(300, '\xFF'));
  bad.run_until([&] { return owner.refused(refusal::wrong_key) == 1; });
  // A hello of releases before 0.2: who, whom, connection.
  bad.send(message::hello, std::array<std::uint64_t, 3>{0xBAD, raw(owner_id), 1},
           bad.worker_address());
  bad.run_until([&] { return owner.refused(refusal::malformed) == 1; });
  // Small numbers are nobody's.
  for (std::uint64_t client = 0; client < 64; ++client)
    bad.send(message::read, ucx::read_header{client, 1, 0, 4096, 0, in_ten_minutes});
  // The owner hears messages in order: when this is counted, it has heard all of the above.
  bad.send_hello(key, bad.worker_address());
  bad.run_until([&] { return owner.refused(refusal::wrong_key) == 2; });
  EXPECT_FALSE(bad.welcomed);
  EXPECT_EQ(bad.bytes_heard, 0u);

  // The same stranger with the key is answered, so all of this could have failed.
  key = key_of(owner.address, secret);
  bad.send_hello(key, bad.worker_address());
  ASSERT_TRUE(bad.run_until([&] { return bad.welcomed.has_value(); }));
  EXPECT_EQ(bad.welcomed->connection, 77u);
  EXPECT_GT(bad.welcomed->client, 1u << 20) << "a number that nobody guesses";
  bad.send(message::read, ucx::read_header{bad.welcomed->client, 1, 0, 4096, 0, in_ten_minutes});
  EXPECT_TRUE(bad.run_until([&] { return bad.bytes_heard == 4096; }));
}

TEST(hello, what_lies_about_its_size_is_refused) {
  owner_end owner;
  stranger bad;
  bad.call(owner.address);
  const hello_key key = key_of(owner.address, secret);
  bad.send_hello(key, "short");
  bad.send_hello(key, std::string(20'000, 'x'));
  bad.run_until([&] { return owner.refused(refusal::malformed) == 2; });
  bad.send_hello(key, bad.worker_address());
  ASSERT_TRUE(bad.run_until([&] { return bad.welcomed.has_value(); }));
  const std::uint64_t client = bad.welcomed->client, bytes = owner.arena.bytes;
  const ucx::read_header beyond[] = {
      {client, 1, bytes, 1, 0, in_ten_minutes}, {client, 2, bytes - 1, 2, 0, in_ten_minutes},
      {client, 3, 8, ~std::uint64_t{0}, 0, 0},  {client, 4, ~std::uint64_t{0}, 8, 0, 0},
      {client, 5, 0, 8, 7, in_ten_minutes},     {client, 6, 0, 0, 0, in_ten_minutes}};
  for (const auto& read : beyond) bad.send(message::read, read);
  bad.send(message::read, ucx::read_header{client, 7, bytes - 8, 8, 0, in_ten_minutes});
  EXPECT_TRUE(bad.run_until([&] { return bad.bytes_heard > 0; }));
  EXPECT_EQ(bad.bytes_heard, 8u);
}

std::size_t resident_bytes() {
  std::size_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * 4096;
}

TEST(hello, a_flood_of_wrong_ones_takes_no_memory_and_few_lines) {
  log_lines log;
  {
    owner_end owner;
    stranger bad;
    bad.call(owner.address);
    const hello_key key = key_of(owner.address, "wrong");
    const std::string payload(60'000, 'x');
    bad.send_hello(key, payload);
    bad.run_until([&] { return owner.refused(refusal::wrong_key) == 1; });
    const std::size_t before = resident_bytes();
    constexpr std::uint64_t count = 4'000;  // 240 MB
    for (std::uint64_t i = 1; i < count; ++i) bad.send_hello(key, payload);
    bad.run_until([&] { return owner.refused(refusal::wrong_key) == count; });
    EXPECT_LT(resident_bytes(), before + (64u << 20));
    reader_end right;
    EXPECT_TRUE(right.read_all(owner.link->local_address().value()));
  }
  EXPECT_GE(log.count("wrong_key"), 1u);
  EXPECT_LE(log.count("wrong_key"), 10u);
}

}  // namespace
}  // namespace troupe::transport::testing
