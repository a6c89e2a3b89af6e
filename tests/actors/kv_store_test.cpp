// Servers with KV stores, in one process, with a tiny random model: what a store gives changes speed, never a token.
#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "actors/kv_identity.hpp"
#include "actors/store_order.hpp"
#include "engine/prefix_index.hpp"
#include "tests/actors/tiny_cluster.hpp"

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;

struct kv_store_test : tiny_cluster {
  std::unique_ptr<serve_process> start(const serve_options& o) {
    auto s = tiny_cluster::start(o);
    if (s) {
      EXPECT_TRUE(connected(*s, (o.num_prefill + o.num_decode) * o.num_kv_store));
    }
    return s;
  }
  // All nodes that ask have so many connections to stores, taken together.
  static bool connected(serve_process& s, std::uint32_t connections) {
    return eventually([&] { return metric(s, "troupe_store_connections") == connections; });
  }
  static generation ask(std::uint64_t seed, std::size_t prompt_tokens, std::string salt = {}) {
    auto g = tiny_cluster::ask(seed, prompt_tokens, 8);
    g.cache_salt = std::move(salt);
    return g;
  }
  static std::shared_ptr<collecting_sink> run(serve_process& s, const generation& g) {
    auto to = std::make_shared<collecting_sink>();
    s.service().submit(g, to);
    EXPECT_TRUE(to->wait());
    EXPECT_EQ(to->end->reason, engine::finish_reason::length) << to_string(to->end->failure);
    return to;
  }
  // A second store, "kv-store-9", which nothing is too much for.
  result<std::unique_ptr<node_process>> join_store(serve_process& s) const {
    auto n = stranger("kv-store", path, s);
    n.name = "kv-store-9";
    n.model_name = "tiny";
    n.store.memory_bytes = 8 << 20;
    return node_process::start(n);
  }
  // `label`: of those that have it.
  static double metric(serve_process& s, const std::string& name, const std::string& label = {}) {
    const std::string text = s.service().metrics_text(milliseconds(2000));
    double sum = 0;
    for (std::size_t at = 0; (at = text.find("\n" + name, at)) != std::string::npos; ++at) {
      const auto end = text.find('\n', at + 1);
      const std::string line = text.substr(at + 1, end - at - 1);
      const char after = line[name.size()];
      if (line.find(label) == std::string::npos) continue;
      if (after == '{' || after == ' ' || name.back() == '}')
        sum += std::strtod(line.c_str() + line.rfind(' ') + 1, nullptr);
    }
    return sum;
  }
  static bool stored(serve_process& s, double blocks) {
    return eventually([&] { return metric(s, "troupe_store_stored_blocks_total") >= blocks; });
  }
  // Lookups that ended otherwise than by the store's having all or nothing: it answered late or looked slow, and computing
  // was expected to be faster. On a busy machine that is so.
  static double declined(serve_process& s) {
    const std::string lookups = "troupe_store_lookups_total";
    return metric(s, lookups) - metric(s, lookups, "\"fetched\"") - metric(s, lookups, "\"miss\"");
  }
  // Asks for what was asked before: the same tokens, from a cache unless computing looked faster.
  static std::shared_ptr<collecting_sink> again(serve_process& s, const generation& g,
                                                const std::vector<token_id>& before,
                                                std::uint32_t cached_tokens) {
    const double declined_before = declined(s);
    const auto to = run(s, g);
    EXPECT_EQ(to->tokens, before);
    if (declined(s) == declined_before) {
      EXPECT_EQ(to->end->usage.cached_tokens, cached_tokens);
    }
    return to;
  }
};

TEST_F(kv_store_test, a_prompt_that_one_node_read_is_fetched_by_another) {
  std::vector<token_id> expected;
  {
    auto alone = start(options(0, 1, 0));
    ASSERT_TRUE(alone);
    expected = run(*alone, ask(1, 200))->tokens;
  }
  auto s = start(options(0, 2, 1));
  ASSERT_TRUE(s);
  const auto first = run(*s, ask(1, 200));
  EXPECT_EQ(first->tokens, expected);
  EXPECT_EQ(first->end->usage.cached_tokens, 0u);
  ASSERT_TRUE(stored(*s, 12));  // whole blocks of the prompt
  const auto reader = first->end->trace.decode_node;
  ASSERT_TRUE(s->service().drain_node(reader, milliseconds(0), false, false));
  const auto other = again(*s, ask(1, 200), expected, 192);
  EXPECT_NE(other->end->trace.decode_node, reader);
  if (other->end->usage.cached_tokens == 192) {
    EXPECT_TRUE(eventually([&] { return metric(*s, "troupe_store_hit_tokens_total") >= 192; }));
    EXPECT_TRUE(eventually([&] { return metric(*s, "troupe_store_fetched_tokens_total") >= 192; }));
  }
}

TEST_F(kv_store_test, prefill_nodes_fetch_too_and_tokens_stay_the_same) {
  std::vector<std::vector<token_id>> expected;
  {
    auto alone = start(options(0, 1, 0));
    ASSERT_TRUE(alone);
    for (std::uint64_t n = 0; n < 6; ++n)
      expected.push_back(run(*alone, ask(n, 150 + 31 * n))->tokens);
  }
  auto s = start(options(2, 2, 2));
  ASSERT_TRUE(s);
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t n = 0; n < 6; ++n)
      EXPECT_EQ(run(*s, ask(n, 150 + 31 * n))->tokens, expected[n]) << "round " << round;
    if (round == 0) {
      ASSERT_TRUE(stored(*s, 40));
    }
  }
}

TEST_F(kv_store_test, another_salt_never_hits) {
  auto s = start(options(0, 2, 1));
  ASSERT_TRUE(s);
  run(*s, ask(5, 200, "alice"));
  ASSERT_TRUE(stored(*s, 12));
  for (int i = 0; i < 3; ++i) {
    const auto other = run(*s, ask(5, 200, "bob" + std::to_string(i)));
    EXPECT_EQ(other->end->usage.cached_tokens, 0u);
  }
  EXPECT_EQ(metric(*s, "troupe_store_hit_tokens_total"), 0);
}

TEST_F(kv_store_test, a_small_store_stays_within_its_blocks) {
  auto o = options(0, 1, 1);
  o.engine.num_kv_blocks = 40;  // so that the node itself forgets
  o.store.memory_bytes = 1 << 18;
  auto s = start(o);
  ASSERT_TRUE(s);
  std::vector<std::vector<token_id>> first;
  for (std::uint64_t n = 0; n < 12; ++n) first.push_back(run(*s, ask(100 + n, 300))->tokens);
  for (std::uint64_t n = 0; n < 12; ++n) EXPECT_EQ(run(*s, ask(100 + n, 300))->tokens, first[n]);
  double total = 0;
  for (const auto& n : s->service().status().nodes)
    if (n.role == "kv-store") total += n.blocks_total;
  ASSERT_GT(total, 0);
  EXPECT_LE(metric(*s, "troupe_store_blocks"), total);
}

TEST_F(kv_store_test, replicas_are_offered_to_the_stores_that_follow_the_home) {
  auto o = options(0, 1, 3);
  o.store.replicas = 2;
  auto s = start(o);
  ASSERT_TRUE(s);
  for (std::uint64_t n = 0; n < 4; ++n) run(*s, ask(n, 200));
  EXPECT_TRUE(stored(*s, 4 * 12 * 2));
  EXPECT_EQ(metric(*s, "troupe_store_stored_blocks_total"), 4 * 12 * 2);
}

// The node forgets what it read, so that it asks the store again and again.
TEST_F(kv_store_test, a_prompt_that_is_often_asked_for_gets_a_copy) {
  auto o = options(0, 1, 2);
  o.engine.num_kv_blocks = 40;
  auto s = start(o);
  ASSERT_TRUE(s);
  std::vector<std::vector<token_id>> first;
  for (std::uint64_t n = 0; n < 3; ++n) {
    first.push_back(run(*s, ask(200 + n, 300))->tokens);
    ASSERT_TRUE(stored(*s, 18.0 * static_cast<double>(n + 1)));  // before its blocks are reused
  }
  EXPECT_EQ(metric(*s, "troupe_store_copies_total"), 0);
  std::uint64_t asked = 0;
  const bool copied = eventually([&] {
    for (std::uint64_t n = 0; n < 3; ++n, ++asked)
      EXPECT_EQ(run(*s, ask(200 + n, 300))->tokens, first[n]);
    return metric(*s, "troupe_store_copies_total") > 0;
  });
  EXPECT_TRUE(copied) << "after " << asked << " requests";
  for (int i = 0; i < 4; ++i)
    for (std::uint64_t n = 0; n < 3; ++n) EXPECT_EQ(run(*s, ask(200 + n, 300))->tokens, first[n]);
}

TEST_F(kv_store_test, a_pinned_prompt_stays_until_it_is_unpinned) {
  auto o = options(0, 1, 1);
  o.engine.num_kv_blocks = 40;
  o.store.memory_bytes = 1 << 19;
  auto s = start(o);
  ASSERT_TRUE(s);
  const auto kept = ask(300, 100);
  const auto text = run(*s, kept)->tokens;
  ASSERT_TRUE(stored(*s, 6));
  const auto pinned = s->service().pin_prefix({kept.prompt, {}, {}, {}, true}, milliseconds(5000));
  ASSERT_TRUE(pinned);
  EXPECT_EQ(pinned->blocks, 6u);
  EXPECT_EQ(pinned->hash.size(), 32u);
  for (std::uint64_t n = 0; n < 12; ++n)  // more than all stores hold
    for (int twice = 0; twice < 2; ++twice) run(*s, ask(400 + n, 300));
  again(*s, kept, text, 96);
  const auto by_hash =
      s->service().pin_prefix({{}, {}, pinned->hash, {}, false}, milliseconds(5000));
  ASSERT_TRUE(by_hash);
  EXPECT_EQ(by_hash->blocks, 6u);
  EXPECT_FALSE(s->service().pin_prefix({{}, {}, "nonsense", {}, true}, milliseconds(5000)));
}

// Whatever a router believes to be cached, the answer is the same.
TEST_F(kv_store_test, the_router_learns_what_nodes_and_stores_hold) {
  auto s = start(options(1, 2, 1));
  ASSERT_TRUE(s);
  const auto first = run(*s, ask(1, 200));
  EXPECT_TRUE(eventually([&] { return metric(*s, "troupe_route_known_blocks") >= 12; }));
  EXPECT_TRUE(eventually([&] { return metric(*s, "troupe_route_kv_events_total") >= 12; }));
  const auto again = run(*s, ask(1, 200));
  EXPECT_EQ(again->tokens, first->tokens);
  EXPECT_TRUE(eventually([&] { return metric(*s, "troupe_route_cached_tokens_total") >= 192; }));
  EXPECT_TRUE(
      eventually([&] { return metric(*s, "troupe_route_ttft_measured_seconds_count") == 2; }));
}

TEST_F(kv_store_test, clear_forgets) {
  auto s = start(options(0, 2, 1));
  ASSERT_TRUE(s);
  run(*s, ask(9, 200));
  ASSERT_TRUE(stored(*s, 12));
  EXPECT_GE(s->service().clear_stores(milliseconds(2000)), 12u);
  EXPECT_EQ(s->service().clear_stores(milliseconds(2000)), 0u);
}

TEST_F(kv_store_test, a_block_in_memory_and_in_the_file_is_cleared_once) {
  auto o = options(0, 1, 1);
  o.store.disk = dir / "kv";
  o.store.disk_bytes = 64 << 20;
  auto s = start(o);
  ASSERT_TRUE(s);
  run(*s, ask(3, 250));
  const auto blocks = [&](const std::string& tier) {
    return metric(*s, "troupe_store_blocks", "tier=\"" + tier + "\"");
  };
  ASSERT_TRUE(
      eventually([&] { return blocks("disk") >= 15 && blocks("disk") == blocks("memory"); }));
  const double both = blocks("memory");
  EXPECT_EQ(static_cast<double>(s->service().clear_stores(milliseconds(2000))), both);
  EXPECT_TRUE(eventually([&] { return blocks("disk") + blocks("memory") == 0; }));
}

TEST_F(kv_store_test, what_is_on_the_disk_is_there_after_a_restart) {
  auto o = options(0, 1, 1);
  o.store.disk = dir / "kv";
  o.store.disk_bytes = 64 << 20;
  std::vector<token_id> expected;
  {
    auto s = start(o);
    ASSERT_TRUE(s);
    expected = run(*s, ask(3, 250))->tokens;
    ASSERT_TRUE(eventually([&] {
      return metric(*s,
                    "troupe_store_blocks{node=\"kv-store-0\",role=\"kv-store\",tier=\"disk\"}") >=
             15;
    }));
  }
  auto s = start(o);
  ASSERT_TRUE(s);
  again(*s, ask(3, 250), expected, 240);
}

TEST_F(kv_store_test, a_store_that_is_drained_hands_on_what_it_has) {
  auto o = options(0, 1, 2);
  o.engine.num_kv_blocks = 40;  // so that the node itself forgets
  auto s = start(o);
  ASSERT_TRUE(s);
  std::vector<std::vector<token_id>> first;
  for (std::uint64_t n = 0; n < 6; ++n) {
    first.push_back(run(*s, ask(500 + n, 200))->tokens);
    ASSERT_TRUE(stored(*s, 12.0 * static_cast<double>(n + 1)));  // before its blocks are reused
  }
  for (std::uint64_t n = 0; n < 3; ++n)
    ASSERT_TRUE(
        s->service().pin_prefix({ask(500 + n, 200).prompt, {}, {}, {}, true}, milliseconds(5000)));
  const std::string of_other = "{node=\"kv-store-1\",role=\"kv-store\"";
  const double had = metric(*s, "troupe_store_blocks" + of_other + ",tier=\"memory\"}");
  ASSERT_LT(had, 6 * 12) << "all prompts have the other store as their home: take other prompts";
  ASSERT_TRUE(s->service().drain_node("kv-store-0", milliseconds(0), false, false));
  EXPECT_TRUE(eventually([&] {
    return metric(*s, "troupe_store_blocks" + of_other + ",tier=\"memory\"}") == 6 * 12;
  }));
  EXPECT_TRUE(eventually(
      [&] { return metric(*s, "troupe_store_pinned_blocks" + of_other + "}") == 3 * 12; }));
  for (std::uint64_t n = 0; n < 6; ++n) again(*s, ask(500 + n, 200), first[n], 192);
}

// Its memory holds hardly more than one prompt; the file has six.
TEST_F(kv_store_test, a_store_that_is_drained_hands_on_its_file) {
  auto o = options(0, 1, 1);
  o.store.disk = dir / "kv";
  o.store.disk_bytes = 64 << 20;
  const std::string on_disk =
      "troupe_store_blocks{node=\"kv-store-0\",role=\"kv-store\",tier=\"disk\"}";
  std::vector<std::vector<token_id>> first;
  {
    auto s = start(o);
    ASSERT_TRUE(s);
    for (std::uint64_t n = 0; n < 6; ++n) first.push_back(run(*s, ask(700 + n, 200))->tokens);
    ASSERT_TRUE(eventually([&] { return metric(*s, on_disk) == 6 * 12; }));
  }
  o.store.memory_bytes = 1 << 16;
  auto s = start(o);
  ASSERT_TRUE(s);
  std::uint64_t blocks = 0;
  for (const auto& n : s->service().status().nodes)
    if (n.role == "kv-store") blocks = n.blocks_total;
  ASSERT_GT(blocks, 0u);
  ASSERT_LT(blocks, 2u * 12);
  ASSERT_EQ(metric(*s, on_disk), 6 * 12);
  auto joined = join_store(*s);
  ASSERT_TRUE(joined) << to_string(joined.error());
  ASSERT_TRUE(connected(*s, 2));
  const auto taken = [&] {
    return metric(*s, "troupe_store_blocks{node=\"kv-store-9\",role=\"kv-store\",tier=\"memory\"}");
  };
  ASSERT_EQ(taken(), 0) << "one that joins gets what is in memory only";
  ASSERT_TRUE(s->service().drain_node("kv-store-0", milliseconds(60'000), false, false));
  EXPECT_TRUE(eventually([&] { return taken() == 6 * 12; })) << taken();
  for (std::uint64_t n = 0; n < 6; ++n) again(*s, ask(700 + n, 200), first[n], 192);
}

TEST_F(kv_store_test, a_store_that_joins_gets_its_share_and_no_more) {
  auto o = options(0, 1, 1);
  o.engine.num_kv_blocks = 40;
  auto s = start(o);
  ASSERT_TRUE(s);
  std::vector<std::vector<token_id>> first;
  hash128_t identity;
  for (const auto& node : s->service().status().nodes)
    if (node.role == "decode") identity = parse_identity(node.kv_identity).value_or(identity);
  double share = 0;  // blocks of the prompts whose home will be the store that joins
  for (std::uint64_t n = 0; n < 8; ++n) {
    const auto g = ask(600 + n, 200);
    first.push_back(run(*s, g)->tokens);
    ASSERT_TRUE(stored(*s, 12.0 * static_cast<double>(n + 1)));  // before its blocks are reused
    const auto home = engine::chain_hash(engine::root_hash(identity, ""),
                                         std::span<const token_id>(g.prompt).first(16));
    const auto order = store_order(home, {{"kv-store-0", 1, 0}, {"kv-store-9", 2, 0}});
    share += order.front().name == "kv-store-9" ? 12 : 0;
  }
  ASSERT_GT(share, 0);
  ASSERT_LT(share, 8 * 12);
  auto joined = join_store(*s);
  ASSERT_TRUE(joined) << to_string(joined.error());
  ASSERT_TRUE(connected(*s, 2));
  const std::string taken =
      "troupe_store_handed_on_blocks_total{node=\"kv-store-0\",role=\"kv-store\",outcome="
      "\"taken\"}";
  const auto moved = [&] {
    return metric(*s, "troupe_store_blocks{node=\"kv-store-9\",role=\"kv-store\",tier=\"memory\"}");
  };
  EXPECT_TRUE(eventually([&] { return moved() == share; }));
  for (std::uint64_t n = 0; n < 8; ++n) again(*s, ask(600 + n, 200), first[n], 192);
  EXPECT_EQ(moved(), share);
  // The node offers what it read to its home as well, whoever is sooner.
  EXPECT_TRUE(eventually([&] { return metric(*s, taken) > 0; }));
  EXPECT_LE(metric(*s, taken), moved());
}

TEST_F(kv_store_test, a_store_of_another_model_is_refused_with_both_identities) {
  auto s = start(options(0, 1, 0));
  ASSERT_TRUE(s);
  const auto other = dir / "other.gguf";
  testing::write_tiny_gguf(other, {.context = 512, .seed = 2});
  node_options n;
  n.role = "kv-store";
  n.model = other;
  n.model_name = "other";
  n.store.memory_bytes = 1 << 20;
  n.join_host = "127.0.0.1";
  n.join_port = s->cluster_port();
  auto node = node_process::start(n);
  ASSERT_TRUE(node) << to_string(node.error());
  ASSERT_TRUE(eventually([&] { return (*node)->failure().has_value(); }));
  EXPECT_EQ((*node)->failure()->code, ec::identity_mismatch);
  EXPECT_NE((*node)->failure()->detail.find("tiny"), std::string::npos);
  EXPECT_NE((*node)->failure()->detail.find("other"), std::string::npos);
}

}  // namespace
}  // namespace troupe::actors
