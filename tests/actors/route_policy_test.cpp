#include "actors/route_policy.hpp"

#include <gtest/gtest.h>

#include <map>

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
  return {1, tokens, false, {}};
}

TEST(route_policy, nobody_decodes) {
  route_policy p;
  p.update({1, {node("prefill-0", role::prefill, 1)}});
  const auto d = p.decide(ask(100));
  EXPECT_EQ(d.plan.code, ec::no_worker);
  EXPECT_EQ(d.reason, "refused");
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

}  // namespace
}  // namespace troupe::actors
