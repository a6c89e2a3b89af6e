// What a decode node tells drafts: nothing while there is none, everything from its beginning to one that comes later.
#include "actors/draft_client.hpp"

#include <gtest/gtest.h>

#include <caf/scoped_actor.hpp>

#include "actors/draft.hpp"
#include "actors/system.hpp"
#include "tests/actors/stepped_engine.hpp"
#include "tests/actors/tiny_cluster.hpp"
#include "tests/engine/harness.hpp"

namespace troupe::actors {
namespace {

struct draft_client_test : ::testing::Test {
  using fake = engine::testing::fake_runner;

  draft_client_test() {
    auto options = engine::testing::small_options(runner);
    options.speculation.try_draft = false;  // wanted as soon as it is there
    auto made = engine::engine::make(runner, runner.arena(), options);
    EXPECT_TRUE(made);
    node->info.name = "decode";
    node->info.kind = role::decode;
    node->info.vocabulary = "v";
    node->neighbours = std::make_shared<local_nodes>();
    node->connector = product_connector(system);
    node->metrics = std::make_unique<node_metrics>("decode", "decode");
    client = system.spawn(draft_client, node);
    engine_driver::hooks hooks;
    hooks.on_failure = [](const error& e) { ADD_FAILURE() << e.detail; };
    hooks.on_step = [this](engine::step_report&& r, auto) {  // as node_runtime does
      if (node->drafts_ready && !r.happened.empty())
        caf::anon_send(
            client, engine_happened{std::make_shared<const engine::events>(std::move(r.happened))});
    };
    auto driver = std::make_unique<stepped_engine>(std::move(*made), std::move(hooks));
    loop = driver.get();
    node->loop = std::move(driver);
  }
  ~draft_client_test() override {
    caf::scoped_actor self{system};
    self->send_exit(caf::actor_cast<caf::actor>(client), caf::exit_reason::kill);
    self->send_exit(caf::actor_cast<caf::actor>(draft), caf::exit_reason::kill);
    client = nullptr;
    draft = nullptr;
  }

  void add(std::uint64_t id, std::uint32_t max_tokens) {
    auto r = engine::testing::make_request(id, engine::testing::make_prompt(id, 9), max_tokens);
    r.sampling.ignore_eos = true;
    r.sampling.seed = 40 + id;
    node->loop->post_completion(
        [r](engine::engine& e, engine::time_point now) { EXPECT_TRUE(e.add(r, now)); });
  }
  void draft_comes() {
    draft = system.spawn([this](draft_actor::pointer) -> draft_actor::behavior_type {
      return {[this](const draft_follow& m) {
                std::lock_guard lock(mutex);
                told.push_back(m);
              },
              [](const draft_drop&) {}, [](const metrics_request&) { return std::string(); },
              [](const drain_request&) {}, [](const draft_happened&) {}};
    });
    membership m;
    m.members.emplace_back();
    m.members[0].info.name = "draft";
    m.members[0].info.kind = role::draft;
    m.members[0].info.start = 5;
    m.members[0].info.vocabulary = "v";
    m.members[0].state = node_state::ready;
    node->neighbours->add(5, caf::actor_cast<caf::strong_actor_ptr>(draft));
    caf::anon_send(client, m);
    EXPECT_TRUE(tiny_cluster::eventually([&] { return node->drafts_ready.load(); }));
  }
  // All that was told of a request, put together; empty where there is a gap.
  std::vector<std::uint32_t> text(std::uint64_t id) {
    std::lock_guard lock(mutex);
    std::vector<std::uint32_t> out;
    for (const auto& m : told) {
      if (m.id != id) continue;
      if (m.first != out.size()) return {};
      out.insert(out.end(), m.tokens.begin(), m.tokens.end());
    }
    return out;
  }

  std::mutex mutex;
  std::vector<draft_follow> told;
  fake runner{1024};
  system_config config{network_settings()};
  caf::actor_system system{config};  // waits for the actors, which use the above
  std::shared_ptr<node_services> node = std::make_shared<node_services>();
  draft_client_actor client;
  draft_actor draft;
  stepped_engine* loop = nullptr;
};

TEST_F(draft_client_test, a_draft_that_comes_later_is_told_from_the_beginning) {
  constexpr std::uint32_t tokens = 1500;  // more than are needed, so that both are still running
  add(1, tokens);
  for (int i = 0; i < 20; ++i) loop->step();
  EXPECT_FALSE(node->drafts_ready);
  draft_comes();
  add(2, tokens);  // which nobody tells the client of, as one that is given in that very moment
  EXPECT_TRUE(tiny_cluster::eventually([&] {
    loop->step();
    return text(1).size() > 9 + 30 && text(2).size() > 9 + 10;
  }));
  for (std::uint64_t id : {1, 2}) {
    auto r = engine::testing::make_request(id, engine::testing::make_prompt(id, 9), tokens);
    r.sampling.ignore_eos = true;
    auto expected = r.prompt;
    const auto answer = engine::testing::run_alone(r).ids();
    expected.insert(expected.end(), answer.begin(), answer.end());
    const auto got = text(id);
    ASSERT_LE(got.size(), expected.size());
    expected.resize(got.size());
    EXPECT_EQ(got, expected);
  }
  std::lock_guard lock(mutex);
  for (const auto& m : told) {
    EXPECT_EQ(m.num_prompt, 9u);
    EXPECT_TRUE(m.first > 0 || m.sampling.seed == 40 + m.id);
  }
}

}  // namespace
}  // namespace troupe::actors
