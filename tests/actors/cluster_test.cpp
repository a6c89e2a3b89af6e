// A whole server in one process, with real actors, UCX, engines and a tiny random model: tokens must not depend on
// the topology.
#include "actors/cluster.hpp"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "actors/client.hpp"
#include "model/tokenizer.hpp"
#include "tests/actors/tiny_cluster.hpp"

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;

class waiting_sink : public generation_sink {
 public:
  void on_accepted() override { accepted = true; }
  void on_tokens(std::vector<engine::token_output> t) override {
    std::lock_guard lock(mutex);
    for (auto& x : t) {
      EXPECT_EQ(x.index, tokens.size());
      tokens.push_back(x.token);
    }
    changed.notify_all();
  }
  void on_finished(generation_end e) override {
    std::lock_guard lock(mutex);
    EXPECT_FALSE(end.has_value());
    end = std::move(e);
    changed.notify_all();
  }
  bool wait(milliseconds limit) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, limit, [this] { return end.has_value(); });
  }
  bool wait_tokens(std::size_t n, milliseconds limit) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, limit, [&] { return tokens.size() >= n || end.has_value(); });
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<token_id> tokens;
  std::optional<generation_end> end;
  std::atomic<bool> accepted{false};
};

struct cluster_test : tiny_cluster {
  // A few milliseconds a token, and as many as the KV blocks hold, so that a request is still running when it is canceled.
  void use_slow_model() {
    use_model(
        {.hidden_size = 256, .intermediate_size = 1024, .num_hidden_layers = 24, .context = 2048});
  }
  static generation ask(std::size_t prompt_tokens, std::uint32_t max_tokens,
                        float temperature = 0) {
    auto g = tiny_cluster::ask(prompt_tokens, prompt_tokens, max_tokens);
    g.sampling.temperature = temperature;
    return g;
  }
  static std::vector<std::shared_ptr<waiting_sink>> run(serve_process& s,
                                                        const std::vector<generation>& all) {
    std::vector<std::shared_ptr<waiting_sink>> sinks;
    for (const auto& g : all) {
      sinks.push_back(std::make_shared<waiting_sink>());
      s.service().submit(g, sinks.back());
    }
    for (auto& sink : sinks) EXPECT_TRUE(sink->wait(milliseconds(60'000)));
    return sinks;
  }
};

TEST_F(cluster_test, tokens_do_not_depend_on_the_topology) {
  std::vector<generation> all;
  for (std::size_t n : {1u, 5u, 31u, 32u, 33u, 64u, 100u, 200u, 301u}) all.push_back(ask(n, 24));
  for (std::size_t n : {40u, 150u}) all.push_back(ask(n, 24, 1.0f));

  std::vector<std::vector<token_id>> expected;
  {
    auto alone = start(options(0, 1));
    ASSERT_TRUE(alone);
    for (const auto& g : all) expected.push_back(run(*alone, {g})[0]->tokens);  // one at a time
  }
  std::uint32_t pulled = 0;
  for (auto [prefill, decode] : {std::pair{0u, 1u}, {1u, 1u}, {2u, 2u}}) {
    auto s = start(options(prefill, decode));
    ASSERT_TRUE(s);
    const auto sinks = run(*s, all);  // together
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_TRUE(sinks[i]->end);
      EXPECT_EQ(sinks[i]->end->reason, engine::finish_reason::length)
          << to_string(sinks[i]->end->failure);
      EXPECT_EQ(sinks[i]->tokens, expected[i]) << prefill << "P " << decode << "D, request " << i;
      EXPECT_TRUE(sinks[i]->accepted);
      if (prefill > 0) pulled += sinks[i]->end->trace.blocks_pulled;
    }
  }
  EXPECT_GT(pulled, 20u);  // the prompts really were read elsewhere
}

TEST_F(cluster_test, the_trace_says_who_did_what) {
  auto s = start(options(1, 1));
  ASSERT_TRUE(s);
  const auto sink = run(*s, {ask(200, 4)})[0];
  ASSERT_TRUE(sink->end);
  EXPECT_EQ(sink->end->trace.decode_node, "decode-0");
  EXPECT_EQ(sink->end->trace.prefill_node, "prefill-0");
  EXPECT_EQ(sink->end->trace.blocks_pulled, 13u);
  EXPECT_FALSE(sink->end->trace.transfer_path.empty());
  EXPECT_EQ(sink->end->usage.prompt_tokens, 200u);
  EXPECT_EQ(sink->end->usage.completion_tokens, 4u);
  EXPECT_GT(sink->end->usage.transfer_bytes, 0u);
}

TEST_F(cluster_test, bad_requests_are_refused_with_the_reason) {
  auto s = start(options(1, 1));
  ASSERT_TRUE(s);
  auto too_long = ask(600, 4);
  auto outside = ask(4, 4);
  outside.prompt.push_back(1'000'000);
  auto empty = ask(0, 4);
  const auto sinks = run(*s, {too_long, outside, empty, ask(40, 4)});
  EXPECT_EQ(sinks[0]->end->failure.code, ec::context_exceeded);
  EXPECT_EQ(sinks[1]->end->failure.code, ec::invalid_argument);
  EXPECT_EQ(sinks[2]->end->failure.code, ec::invalid_argument);
  EXPECT_EQ(sinks[3]->end->reason, engine::finish_reason::length);
}

TEST_F(cluster_test, cancel_ends_a_request_and_frees_its_blocks) {
  use_slow_model();
  auto s = start(options(1, 1));
  ASSERT_TRUE(s);
  auto sink = std::make_shared<waiting_sink>();
  const auto id = s->service().submit(ask(100, 1900), sink);
  ASSERT_TRUE(sink->wait_tokens(3, milliseconds(60'000)));
  s->service().cancel(id);
  ASSERT_TRUE(sink->wait(milliseconds(60'000)));
  EXPECT_EQ(sink->end->reason, engine::finish_reason::abort);
  EXPECT_TRUE(eventually([&] {
    bool clean = true;
    for (const auto& n : s->service().status().nodes)
      if (n.role != "gateway")
        clean = clean && n.running == 0 && n.blocks_used == 0 && n.blocks_quarantined == 0;
    return clean;
  }));
}

TEST_F(cluster_test, a_program_connects_and_streams) {
  use_slow_model();
  auto s = start(options(1, 1));
  ASSERT_TRUE(s);
  auto c = client::connect("127.0.0.1", s->cluster_port());
  ASSERT_TRUE(c) << to_string(c.error());
  std::vector<token_id> seen;
  auto end = (*c)->generate(ask(64, 12), [&](const engine::token_output& t) {
    seen.push_back(t.token);
    return true;
  });
  ASSERT_TRUE(end) << to_string(end.error());
  EXPECT_EQ(end->reason, engine::finish_reason::length);
  EXPECT_EQ(seen, run(*s, {ask(64, 12)})[0]->tokens);
  int delivered = 0;
  auto stopped =
      (*c)->generate(ask(64, 1900), [&](const engine::token_output&) { return ++delivered < 3; });
  ASSERT_TRUE(stopped) << to_string(stopped.error());
  EXPECT_EQ(stopped->reason, engine::finish_reason::abort);
  EXPECT_EQ(delivered, 3);  // nothing after the callback said no
}

TEST_F(cluster_test, a_program_with_another_secret_or_port_is_told) {
  auto s = start(options(0, 1));
  ASSERT_TRUE(s);
  client_options other;
  other.secret = "wrong";
  other.connect_timeout = milliseconds(1000);
  auto refused = client::connect("127.0.0.1", s->cluster_port(), other);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ec::peer_lost);
  EXPECT_FALSE(client::connect("127.0.0.1", 1));
}

TEST_F(cluster_test, a_node_with_another_model_is_refused_with_both_identities) {
  auto s = start(options(0, 1));
  ASSERT_TRUE(s);
  const auto other = dir / "other.gguf";
  testing::write_tiny_gguf(other, {.context = 512, .seed = 2});
  auto node = node_process::start(stranger("prefill", other, *s));
  ASSERT_TRUE(node) << to_string(node.error());
  ASSERT_TRUE(eventually([&] { return (*node)->failure().has_value(); }));
  EXPECT_EQ((*node)->failure()->code, ec::identity_mismatch);
  EXPECT_NE((*node)->failure()->detail.find("tiny"), std::string::npos);
  EXPECT_NE((*node)->failure()->detail.find("other"), std::string::npos);
}

TEST_F(cluster_test, a_listener_for_others_needs_a_secret) {
  auto o = options(0, 1);
  o.network.host = "192.0.2.1";
  auto s = serve_process::start(o, model);
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().code, ec::invalid_argument);
}

}  // namespace
}  // namespace troupe::actors
