#include "actors/membership_table.hpp"

#include <gtest/gtest.h>

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;

struct membership_table_test : ::testing::Test {
  membership_options options() {
    membership_options o;
    o.expected_model = "M";
    o.expected_model_text = "model M";
    o.on_lost = [this](role r) { ++losses[r]; };
    return o;
  }
  node_info node(const std::string& name, std::uint64_t start, std::uint16_t port = 1) {
    node_info n;
    n.name = name;
    n.start = start;
    n.host = "h";
    n.port = port;
    n.model_digest = "M";
    n.kv_identity = "K";
    n.identity_text = "model M, KV K";
    return n;
  }
  heartbeat beat(const std::string& name, std::uint64_t start,
                 node_state state = node_state::ready) {
    return {name, start, state, {}, {}};
  }
  std::map<role, int> losses;
  membership_table table{options()};
  membership_table::time_point t0{};
};

TEST_F(membership_table_test, joins_hears_and_expires) {
  EXPECT_EQ(table.join(node("a", 1), t0).code, ec::none);
  EXPECT_TRUE(table.heard(beat("a", 1), t0 + milliseconds(100)));
  EXPECT_EQ(table.snapshot(t0).members.at(0).state, node_state::ready);
  EXPECT_FALSE(table.expire(t0 + milliseconds(3000)));
  EXPECT_TRUE(table.expire(t0 + milliseconds(3200)));
  EXPECT_EQ(table.snapshot(t0).members.at(0).state, node_state::lost);
  // A node that was only slow must join again: others have given up on it.
  EXPECT_FALSE(table.heard(beat("a", 1), t0 + milliseconds(3300)));
  EXPECT_EQ(table.join(node("a", 1), t0 + milliseconds(3400)).code, ec::none);
  EXPECT_TRUE(table.heard(beat("a", 1), t0 + milliseconds(3500)));
}

TEST_F(membership_table_test, each_loss_is_counted_once_and_a_drain_is_none) {
  auto prefill = node("p", 7, 2);
  prefill.kind = role::prefill;
  const auto decode = node("d", 1);
  ASSERT_NE(decode.kind, prefill.kind);
  table.join(decode, t0);
  table.join(prefill, t0);
  table.lost("d", 1, "connection ended", t0);
  table.lost("d", 1, "connection ended", t0);
  EXPECT_EQ(losses[decode.kind], 1);
  table.join(node("d", 2), t0);  // the supervisor was quick
  EXPECT_EQ(losses[decode.kind], 1);
  table.join(node("d", 3), t0);  // quicker than the end of the connection
  EXPECT_EQ(losses[decode.kind], 2);
  table.join(node("d", 3), t0);  // the same one again
  table.lost("d", 2, "connection ended", t0);
  EXPECT_EQ(losses[decode.kind], 2);
  table.heard(beat("d", 3, node_state::draining), t0);
  table.lost("d", 3, "connection ended", t0);
  EXPECT_EQ(losses[decode.kind], 2);
  EXPECT_EQ(losses[role::prefill], 0);
  table.expire(t0 + milliseconds(4000));
  table.expire(t0 + milliseconds(5000));
  EXPECT_EQ(losses[role::prefill], 1);
}

TEST_F(membership_table_test, forgets_what_was_lost_long_ago) {
  table.join(node("a", 1), t0);
  table.expire(t0 + milliseconds(4000));
  EXPECT_EQ(table.snapshot(t0).members.size(), 1u);
  table.expire(t0 + milliseconds(70'000));
  EXPECT_TRUE(table.snapshot(t0).members.empty());
}

TEST_F(membership_table_test, refuses_another_model_and_names_both) {
  auto other = node("b", 2);
  other.model_digest = "X";
  other.identity_text = "model X, KV K";
  const auto reply = table.join(other, t0);
  EXPECT_EQ(reply.code, ec::identity_mismatch);
  EXPECT_NE(reply.detail.find("model M"), std::string::npos);
  EXPECT_NE(reply.detail.find("model X"), std::string::npos);
}

TEST_F(membership_table_test, refuses_another_kv_layout_and_names_both) {
  ASSERT_EQ(table.join(node("a", 1), t0).code, ec::none);
  auto other = node("b", 2);
  other.kv_identity = "L";
  other.identity_text = "model M, KV L";
  const auto reply = table.join(other, t0);
  EXPECT_EQ(reply.code, ec::identity_mismatch);
  EXPECT_NE(reply.detail.find("KV K"), std::string::npos);
  EXPECT_NE(reply.detail.find("KV L"), std::string::npos);
}

TEST_F(membership_table_test, a_draft_needs_the_vocabulary_and_not_the_model) {
  auto o = options();
  int asked = 0;
  o.expected_vocabulary = [&asked] {
    ++asked;
    return std::string("V");
  };
  membership_table t(o);
  auto draft = node("d", 2);
  draft.kind = role::draft;
  draft.model_digest = "S";
  draft.kv_identity = "KS";
  draft.identity_text = "model S, KV KS";
  draft.vocabulary = "V";
  EXPECT_EQ(t.join(draft, t0).code, ec::none);
  EXPECT_EQ(t.join(node("a", 1), t0).code, ec::none) << "its KV is compared with nobody's";
  draft.name = "e";
  draft.vocabulary = "W";
  const auto reply = t.join(draft, t0);
  EXPECT_EQ(reply.code, ec::identity_mismatch);
  for (const char* part : {"model M", "vocabulary V", "model S", "W"})
    EXPECT_NE(reply.detail.find(part), std::string::npos) << reply.detail;
  EXPECT_EQ(asked, 1);
}

TEST_F(membership_table_test, refuses_another_protocol) {
  auto other = node("b", 2);
  other.protocol = protocol_version + 1;
  EXPECT_EQ(table.join(other, t0).code, ec::identity_mismatch);
}

TEST_F(membership_table_test, a_restarted_node_is_a_new_peer) {
  table.join(node("a", 1), t0);
  table.lost("a", 1, "connection ended", t0);
  EXPECT_EQ(table.join(node("a", 2, 5), t0).code, ec::none);
  EXPECT_FALSE(table.heard(beat("a", 1), t0));  // the old one may still speak
  EXPECT_TRUE(table.heard(beat("a", 2), t0));
  table.lost("a", 1, "late news of the old one", t0);
  EXPECT_EQ(table.snapshot(t0).members.at(0).state, node_state::ready);
}

TEST_F(membership_table_test, two_live_nodes_cannot_share_a_name) {
  table.join(node("a", 1, 1), t0);
  table.heard(beat("a", 1), t0);
  EXPECT_EQ(table.join(node("a", 2, 2), t0 + milliseconds(100)).code, ec::invalid_argument);
}

TEST_F(membership_table_test, a_drained_node_leaves_without_being_lost) {
  table.join(node("a", 1), t0);
  table.heard(beat("a", 1, node_state::draining), t0);
  table.lost("a", 1, "connection ended", t0);
  EXPECT_TRUE(table.snapshot(t0).members.empty());
}

}  // namespace
}  // namespace troupe::actors
