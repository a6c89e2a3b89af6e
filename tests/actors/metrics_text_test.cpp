#include "actors/metrics_text.hpp"

#include <gtest/gtest.h>

#include "actors/metrics.hpp"

namespace troupe::actors {
namespace {

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(metrics_text, a_family_of_two_nodes_has_one_head_and_all_samples) {
  node_metrics a("decode-0", "decode"), b("prefill-0", "prefill");
  gateway_metrics g("gateway");
  const std::string texts[] = {g.text(), a.text(), b.text()};
  const auto merged = merge_metrics(texts);
  EXPECT_EQ(count(merged, "# TYPE troupe_kv_blocks gauge"), 1u);
  EXPECT_EQ(count(merged, "# HELP troupe_build_info "), 1u);
  EXPECT_EQ(count(merged, "troupe_kv_blocks{node=\"decode-0\",role=\"decode\",state=\"free\"}"),
            1u);
  EXPECT_EQ(count(merged, "troupe_kv_blocks{node=\"prefill-0\",role=\"prefill\",state=\"free\"}"),
            1u);
  EXPECT_EQ(count(merged, "\n\n"), 0u);
}

TEST(metrics_text, odd_input_does_no_harm) {
  const std::string texts[] = {"", "orphan 1\n", "# HELP a b\n# TYPE a counter\na 1", "# EOF\n"};
  EXPECT_EQ(merge_metrics(texts), "# HELP a b\n# TYPE a counter\na 1\n");
}

TEST(node_metrics, counters_advance_by_what_was_added) {
  node_metrics m("n", "decode");
  engine::engine_stats s;
  s.prefill_tokens = 10;
  m.update(s);
  m.update(s);
  s.prefill_tokens = 15;
  s.blocks_free = 3;
  m.update(s);
  const auto text = m.text();
  EXPECT_NE(text.find("troupe_engine_prompt_tokens_total{node=\"n\",role=\"decode\"} 15"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("state=\"free\"} 3"), std::string::npos);
}

TEST(node_metrics, peers_on_slow_paths_come_and_go) {
  node_metrics m("n", "decode");
  const std::string series = "troupe_transport_slow_peers{node=\"n\",role=\"decode\",path=";
  EXPECT_NE(m.text().find(series + "\"tcp\"} 0"), std::string::npos);
  transport::fabric_stats s;
  s.slow_peers = {{transport::path::tcp, 2}};
  m.update_fabric(s);
  EXPECT_NE(m.text().find(series + "\"tcp\"} 2"), std::string::npos);
  EXPECT_NE(m.text().find(series + "\"staged_shm\"} 0"), std::string::npos);
  m.update_fabric({});
  EXPECT_NE(m.text().find(series + "\"tcp\"} 0"), std::string::npos);
}

TEST(node_metrics, a_fence_that_does_not_match_counts_its_blocks) {
  node_metrics m("n", "decode");
  pull_outcome out;
  out.ok = {true, false, false};
  out.failure = {ec::fence_mismatch, "generation"};
  m.on_pull(out);
  EXPECT_NE(m.text().find("troupe_kv_checksum_failures_total{node=\"n\",role=\"decode\"} 2"),
            std::string::npos);
}

}  // namespace
}  // namespace troupe::actors
