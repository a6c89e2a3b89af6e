#include "actors/route_policy.hpp"

#include <gtest/gtest.h>

#include <map>

#include "engine/prefix_index.hpp"
#include "engine/prefix_journal.hpp"

namespace troupe::actors {
namespace {

member node(const std::string& name, role kind, std::uint64_t start,
            std::uint64_t waiting_tokens = 0, std::uint64_t speed = 1000) {
  member m;
  m.info.name = name;
  m.info.kind = kind;
  m.info.start = start;
  m.info.block_tokens = 16;
  m.state = node_state::ready;
  m.load.waiting_tokens = waiting_tokens;
  m.load.prefill_tokens_per_second = speed;
  m.load.pull_bytes_per_second = 4'000'000'000;
  return m;
}

route_request ask(std::uint32_t tokens) {
  return {1, tokens, false, {}, {}, {}, 0};
}

TEST(route_policy, nobody_decodes) {
  route_policy p;
  p.update({1, {node("prefill-0", role::prefill, 1)}});
  const auto d = p.decide(ask(100));
  EXPECT_EQ(d.plan.code, ec::no_worker);
  EXPECT_EQ(d.reason, "refused");
}

TEST(route_policy, only_nodes_that_hold_a_request_get_it) {
  auto small = node("decode-0", role::decode, 1), large = node("decode-1", role::decode, 2);
  auto reader = node("prefill-0", role::prefill, 3);
  small.info.max_model_len = 320, large.info.max_model_len = 8192, reader.info.max_model_len = 400;
  large.load.running = 40;
  route_policy p;
  p.update({1, {small, large, reader}});
  auto r = ask(300);
  r.total_tokens = 320;
  EXPECT_EQ(p.decide(r).plan.decode.start, 1u);
  r.total_tokens = 321;
  EXPECT_EQ(p.decide(r).plan.decode.start, 2u);
  p.update({2, {small, large, reader}});  // what was sent is forgotten
  EXPECT_TRUE(p.decide(ask(399)).plan.has_prefill);
  p.update({3, {small, large, reader}});
  EXPECT_FALSE(p.decide(ask(400)).plan.has_prefill) << "the prompt and the first token";
  r.total_tokens = 8193;
  const auto d = p.decide(r);
  EXPECT_EQ(d.plan.code, ec::context_exceeded);
  EXPECT_NE(d.plan.detail.find("8192"), std::string::npos);
}

TEST(route_policy, who_holds_a_request_and_is_away_is_waited_for) {
  auto small = node("decode-0", role::decode, 1), large = node("decode-1", role::decode, 2);
  small.info.max_model_len = 320, large.info.max_model_len = 8192;
  auto r = ask(300);
  r.total_tokens = 1000;
  route_policy p;
  for (const auto state : {node_state::joining, node_state::draining, node_state::lost}) {
    large.state = state;
    p.update({1, {small, large}});
    EXPECT_EQ(p.decide(r).plan.code, ec::no_worker) << static_cast<int>(state);
  }
  large.state = node_state::ready;
  p.update({2, {small, large}});
  r.excluded = {2};
  EXPECT_EQ(p.decide(r).plan.code, ec::no_worker);
  p.update({3, {small}});
  EXPECT_EQ(p.decide(r).plan.code, ec::context_exceeded);
}

TEST(route_policy, long_prompts_go_to_prefill_short_ones_stay) {
  route_policy p;
  p.update({1, {node("decode-0", role::decode, 1), node("prefill-0", role::prefill, 2)}});
  EXPECT_TRUE(p.decide(ask(512)).plan.has_prefill);
  EXPECT_EQ(p.decide(ask(31)).reason, "short_prompt");
  auto whole = ask(512);
  whole.local_only = true;
  EXPECT_EQ(p.decide(whole).reason, "local_only");
}

TEST(route_policy, a_busy_prefill_node_is_not_worth_it) {
  route_policy p;
  p.update({1, {node("decode-0", role::decode, 1), node("prefill-0", role::prefill, 2, 5000)}});
  const auto d = p.decide(ask(512));
  EXPECT_FALSE(d.plan.has_prefill);
  EXPECT_EQ(d.reason, "local_faster");
}

TEST(route_policy, a_burst_is_spread_before_any_node_reports) {
  route_policy p;
  p.update({1,
            {node("decode-0", role::decode, 1), node("decode-1", role::decode, 2),
             node("prefill-0", role::prefill, 3), node("prefill-1", role::prefill, 4)}});
  std::map<std::string, int> decodes, prefills;
  for (int i = 0; i < 8; ++i) {
    const auto d = p.decide(ask(512));
    ++decodes[d.plan.decode.name];
    if (d.plan.has_prefill) ++prefills[d.plan.prefill.name];
  }
  EXPECT_EQ(decodes["decode-0"], 4);
  EXPECT_EQ(decodes["decode-1"], 4);
  EXPECT_EQ(prefills["prefill-0"], prefills["prefill-1"]);
}

TEST(route_policy, what_failed_and_what_is_not_ready_is_left_out) {
  route_policy p;
  auto lost = node("decode-1", role::decode, 2);
  lost.state = node_state::lost;
  auto draining = node("decode-2", role::decode, 3);
  draining.state = node_state::draining;
  p.update({1, {node("decode-0", role::decode, 1), lost, draining}});
  EXPECT_EQ(p.decide(ask(100)).plan.decode.name, "decode-0");
  auto again = ask(100);
  again.excluded = {1};
  EXPECT_EQ(p.decide(again).plan.code, ec::no_worker);
}

// -- what nodes measured -------------------------------------------------------------------------------------------------

using std::chrono::seconds;
const auto begin = route_policy::time_point{} + seconds(1000);

membership of(std::vector<member> all) {
  return {1, std::move(all)};
}

// A prefill node that measured itself in a bad moment gets no prompt, and so measures nothing more: it must be tried again.
TEST(route_policy, a_node_that_once_was_slow_is_tried_again) {
  route_policy p;
  const auto fast = node("decode-0", role::decode, 1, 0, 1000);
  const auto slow = node("prefill-0", role::prefill, 2, 0, 100);
  p.update(of({fast, slow}), begin);
  EXPECT_EQ(p.decide(ask(512), begin).reason, "local_faster");
  auto now = begin;
  int waited = 0;
  for (auto busy = fast; waited < 60; ++waited) {  // decode goes on measuring, about the same
    now += seconds(1);
    busy.load.prefill_tokens_per_second = 1000 + waited % 5;
    p.update(of({busy, slow}), now);
    if (p.decide(ask(512), now).plan.has_prefill) break;
  }
  EXPECT_GT(waited, 5) << "not at once: it was measured";
  EXPECT_LT(waited, 40);
  // It is measured again, and is as slow as before: another while without it.
  auto still = slow;
  still.load.prefill_tokens_per_second = 101;
  p.update(of({fast, still}), now);
  EXPECT_EQ(p.decide(ask(512), now).reason, "local_faster");
}

TEST(route_policy, a_node_of_another_kind_heals_by_what_it_once_did) {
  route_policy p;
  auto decode = node("decode-0", role::decode, 1, 0, 1000);
  auto gpu = node("prefill-0", role::prefill, 2, 0, 50'000);
  gpu.info.device = "a GPU";
  p.update(of({decode, gpu}), begin);
  EXPECT_TRUE(p.decide(ask(512), begin).plan.has_prefill);
  gpu.load.prefill_tokens_per_second = 90;
  p.update(of({decode, gpu}), begin + seconds(1));
  EXPECT_FALSE(p.decide(ask(512), begin + seconds(1)).plan.has_prefill);
  p.update(of({decode, gpu}), begin + seconds(60));
  EXPECT_TRUE(p.decide(ask(512), begin + seconds(60)).plan.has_prefill);
}

// -- cached prefixes -----------------------------------------------------------------------------------------------------

const hash128_t identity{7, 9};

struct route_prefix : ::testing::Test {
  static member with_cache(member m) {
    m.info.kv_identity = to_hex(identity);
    m.info.block_bytes = 1 << 20;
    return m;
  }
  static route_request prompt(std::uint32_t seed, std::uint32_t tokens, std::string salt = {}) {
    auto r = ask(tokens);
    for (std::uint32_t i = 0; i < tokens; ++i) r.prompt.push_back(seed * 1000 + i);
    r.cache_salt = std::move(salt);
    return r;
  }
  // The node tells that it holds the prompt's first blocks.
  void tell(std::uint64_t start, const route_request& r, std::uint32_t blocks) {
    auto& j = journals[start];
    hash128_t h = engine::root_hash(identity, r.cache_salt);
    for (std::uint32_t i = 0; i < blocks; ++i) {
      h = engine::chain_hash(h, std::span(r.prompt).subspan(std::size_t{i} * 16, 16));
      j.stored(h);
    }
    const auto asked = p.prefixes().ask(start);
    const auto page = j.read(asked.next, asked.since, 10'000);
    p.prefixes().apply(
        {start, page.first, page.next, page.since, page.reset, page.more, page.changes});
  }
  route_policy p;
  std::map<std::uint64_t, engine::prefix_journal> journals;
};

TEST_F(route_prefix, a_prompt_goes_where_its_beginning_is) {
  const auto all = of({with_cache(node("decode-0", role::decode, 1)),
                       with_cache(node("decode-1", role::decode, 2)),
                       with_cache(node("decode-2", role::decode, 3))});
  p.update(all, begin);
  const auto r = prompt(1, 1600);
  tell(2, r, 90);
  for (int i = 0; i < 6; ++i) {
    p.update(all, begin);  // nothing waits
    const auto d = p.decide(r, begin);
    EXPECT_EQ(d.plan.decode.name, "decode-1");
    EXPECT_EQ(d.plan.choice, "local");
    // From the second time on all of it is expected there.
    const std::uint32_t cached = i == 0 ? 90 * 16 : 99 * 16;
    EXPECT_EQ(d.plan.cached_tokens, cached);
    EXPECT_NEAR(static_cast<double>(d.plan.predicted_ttft_us), (1600 - cached) * 1e3, 2e3);
  }
  EXPECT_EQ(p.decide(prompt(1, 1600, "salt"), begin).plan.cached_tokens, 0u);
}

TEST_F(route_prefix, affinity_does_not_overload_a_node) {
  const auto all = of({with_cache(node("decode-0", role::decode, 1)),
                       with_cache(node("decode-1", role::decode, 2)),
                       with_cache(node("decode-2", role::decode, 3)),
                       with_cache(node("decode-3", role::decode, 4))});
  p.update(all, begin);
  const auto r = prompt(1, 3200);
  tell(1, r, 199);
  std::map<std::string, int> given;
  for (int i = 0; i < 80; ++i) ++given[p.decide(r, begin).plan.decode.name];
  EXPECT_GT(given["decode-0"], 20) << "its cache counts";
  EXPECT_LE(given["decode-0"], 80 / 4 * 2 + 2) << "and its load as well";
  EXPECT_EQ(given.size(), 4u);
}

TEST_F(route_prefix, a_queue_outweighs_a_cache) {
  auto queued = with_cache(node("decode-0", role::decode, 1, 5000));
  p.update(of({queued, with_cache(node("decode-1", role::decode, 2))}), begin);
  const auto r = prompt(1, 1600);
  tell(1, r, 99);
  const auto d = p.decide(r, begin);
  EXPECT_EQ(d.plan.decode.name, "decode-1");
  EXPECT_NEAR(static_cast<double>(d.plan.predicted_ttft_us), 1.6e6, 1e4);
}

TEST_F(route_prefix, the_prefill_node_with_the_prefix_reads_it) {
  p.update(of({with_cache(node("decode-0", role::decode, 1)),
               with_cache(node("prefill-0", role::prefill, 2)),
               with_cache(node("prefill-1", role::prefill, 3))}),
           begin);
  const auto r = prompt(1, 1600);
  tell(3, r, 80);
  const auto d = p.decide(r, begin);
  EXPECT_EQ(d.plan.choice, "remote");
  EXPECT_EQ(d.plan.prefill.name, "prefill-1");
  EXPECT_EQ(d.plan.cached_tokens, 80u * 16);
}

TEST_F(route_prefix, what_decode_has_is_not_read_elsewhere) {
  p.update(of({with_cache(node("decode-0", role::decode, 1)),
               with_cache(node("prefill-0", role::prefill, 2))}),
           begin);
  const auto r = prompt(1, 1600);
  tell(1, r, 99);
  const auto d = p.decide(r, begin);
  EXPECT_FALSE(d.plan.has_prefill);
  EXPECT_EQ(d.reason, "prefix_cached");
}

TEST_F(route_prefix, a_store_counts_by_its_link) {
  auto decode = with_cache(node("decode-0", role::decode, 1));
  const auto store = with_cache(node("kv-store-0", role::kv_store, 5));
  p.update(of({decode, store}), begin);
  const auto r = prompt(1, 1600);
  tell(5, r, 99);
  auto d = p.decide(r, begin);
  EXPECT_EQ(d.plan.choice, "local_store");
  EXPECT_EQ(d.plan.cached_tokens, 99u * 16);
  EXPECT_LT(d.plan.predicted_ttft_us, 100'000u);
  route_policy slow;
  decode.load.pull_bytes_per_second =
      1 << 20;  // a block a second, which is 16 tokens: computing is faster
  slow.update(of({decode, store}), begin);
  std::swap(p, slow);
  journals.clear();
  tell(5, r, 99);
  d = p.decide(r, begin);
  EXPECT_EQ(d.plan.choice, "local");
  EXPECT_NEAR(static_cast<double>(d.plan.predicted_ttft_us), 1.6e6, 1e4);
}

// The second of a burst follows the first, before any node has told anything.
TEST_F(route_prefix, what_was_just_sent_is_expected_there) {
  const auto all = of({with_cache(node("decode-0", role::decode, 1)),
                       with_cache(node("decode-1", role::decode, 2)),
                       with_cache(node("prefill-0", role::prefill, 3)),
                       with_cache(node("prefill-1", role::prefill, 4))});
  p.update(all, begin);
  const auto r = prompt(1, 1600);
  ASSERT_TRUE(p.decide(r, begin).plan.has_prefill);
  EXPECT_EQ(p.decide(r, begin).plan.cached_tokens, 0u) << "nobody told that it keeps anything";
  for (std::uint64_t start = 1; start <= 4; ++start) tell(start, r, 0);
  p.update(all, begin);
  ASSERT_TRUE(p.decide(r, begin).plan.has_prefill);
  EXPECT_GT(p.decide(r, begin).plan.cached_tokens, 1500u);
}

}  // namespace
}  // namespace troupe::actors
