// The real KV store and a node's real store client under CAF's test coordinator: virtual time, one thread. The other end
// is scripted, so that each moment of a failure can be chosen.
#include <gtest/gtest.h>

#include <caf/actor_system.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <caf/send.hpp>

#include "actors/kv_store.hpp"
#include "actors/store_client.hpp"
#include "engine/prefix_index.hpp"
#include "tests/actors/stepped_engine.hpp"
#include "tests/engine/harness.hpp"
#include "tests/simulation/actor_state.hpp"
#include "tests/simulation/coordinated_config.hpp"
#include "transport/sim/fabric.hpp"

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t mine = 1, other = 2;  // incarnations
constexpr hash128_t identity = engine::testing::identity;

// A store that answers nothing.
struct heard {
  std::vector<store_offer> offers;
  std::vector<store_lookup> lookups;
  std::vector<release_request> releases;
};
kv_store_actor::behavior_type scripted_store(kv_store_actor::pointer, std::shared_ptr<heard> log) {
  return {
      [log](const store_offer& m) { log->offers.push_back(m); },
      [log](const store_lookup& m) { log->lookups.push_back(m); },
      [log](const release_request& m) { log->releases.push_back(m); },
      [](const clear_request&) { return std::uint64_t{0}; },
      [](const pin_request&) { return pin_reply{}; },
      [](const prefix_events_request&) {},
      [](const store_offer_done&) {},
      [](const membership&) {},
      [](const metrics_request&) { return std::string(); },
      [](const drain_request&) {},
      [](const store_pulled&) {},
      [](const blocks_loaded&) {},
      [](const link_lost&) {},
      [](caf::tick_atom) {},
  };
}

store_reader::behavior_type scripted_reader(store_reader::pointer,
                                            std::shared_ptr<std::vector<store_found>> found) {
  return {[found](const store_found& m) { found->push_back(m); }};
}

struct store_actors_test : ::testing::Test {
  store_actors_test() {
    node->info.name = "mine";
    node->info.start = mine;
    node->info.kv_identity = "same";
    node->info.block_tokens = 16;
    node->neighbours = std::make_shared<local_nodes>();
    node->now = [this] { return scheduler.clock().now(); };
    node->puller = std::make_unique<block_puller>(layout, engine::fence_layout(identity));
    fabric = network->make_fabric(incarnation{mine}, node->puller->sink());
    auto made = fabric->allocate(8 * layout.block_bytes());
    EXPECT_TRUE(made);
    arena = *made;
    node->puller->attach(*fabric, arena);
  }
  ~store_actors_test() override {
    for (auto& a : actors) caf::anon_send_exit(caf::actor_cast<caf::actor>(a), exit_now);
    actors.clear();
    run();
  }

  void run() { scheduler.run(); }
  void pass(milliseconds t) {
    for (milliseconds step{0}; step < t; step += milliseconds(50)) {
      scheduler.advance_time(milliseconds(50));
      run();
    }
  }
  template <class Actor>
  Actor own(Actor a) {
    actors.push_back(caf::actor_cast<caf::strong_actor_ptr>(a));
    run();
    return a;
  }
  template <class Actor>
  void end(const Actor& a) {
    caf::anon_send_exit(caf::actor_cast<caf::actor>(a), exit_now);
    run();
  }
  kv_store_actor make_other(const std::shared_ptr<heard>& log) {
    auto a = own(system.spawn(scripted_store, log));
    node->neighbours->add(other, caf::actor_cast<caf::strong_actor_ptr>(a));
    return a;
  }
  static membership with_other() {
    membership m;
    m.members.emplace_back();
    auto& n = m.members.back();
    n.info.name = "other";
    n.info.start = other;
    n.info.kind = role::kv_store;
    n.info.kv_identity = "same";
    n.state = node_state::ready;
    return m;
  }

  static constexpr auto exit_now = caf::exit_reason::kill;
  const gpu::kv_layout layout{1, 1, 4, 16, gpu::kv_dtype::f16};
  simulation::coordinated_config cfg;
  std::unique_ptr<transport::sim_network> network =
      transport::make_sim_network(1, transport::time_point{});
  std::shared_ptr<node_services> node = std::make_shared<node_services>();
  std::unique_ptr<transport::fabric> fabric;
  transport::region arena;
  caf::actor_system system{cfg};
  caf::scheduler::test_coordinator& scheduler =
      dynamic_cast<caf::scheduler::test_coordinator&>(system.scheduler());
  std::vector<caf::strong_actor_ptr> actors;
};

// -- a store -------------------------------------------------------------------------------------------------------------

struct kv_store_actor_test : store_actors_test {
  kv_store_actor_test() {
    context->node = node;
    context->metrics = std::make_shared<store_metrics>("mine");
    context->options = {8, 16, {}, milliseconds(5000), node->journal};
    context->kv_identity = identity;
    context->arena = arena.span();
    context->stride = layout.block_bytes();
    context->sealed_bytes = layout.payload_bytes() + gpu::fence_bytes;
    store = own(system.spawn(kv_store, context));
  }
  // Two blocks of a prompt that belongs here, as a pull would have brought them; what a reader asks for it with.
  store_lookup keep_a_prompt() {
    const auto root = engine::root_hash(identity, "");
    store_lookup ask{7, 0, "same", root.high, root.low, {}, 0};
    for (std::uint64_t seed = 1;; ++seed) {
      ask.tokens = engine::testing::make_prompt(seed, 32);
      const auto first = engine::chain_hash(root, std::span(ask.tokens).first(16));
      if (store_order(first, {{"mine", mine, 0}, {"other", other, 0}}).front().start == mine) break;
    }
    hash128_t parent = root;
    const auto now = node->now();
    for (std::uint32_t i = 0; i < 2; ++i) {
      const auto part = std::span(ask.tokens).subspan(i * 16, 16);
      const auto hash = engine::chain_hash(parent, part);
      const auto block =
          state().store->reserve({hash, parent, {part.begin(), part.end()}, i, 32}, now, true);
      EXPECT_TRUE(block);
      if (block) state().store->filled(*block, true, now);
      parent = hash;
    }
    return ask;
  }
  kv_store_state& state() {
    return *simulation::state_of<kv_store_state, kv_store_actor>(
        caf::actor_cast<caf::strong_actor_ptr>(store));
  }
  void look_up(const store_lookup& m) {
    caf::send_as(reader, store, m);
    run();
  }
  void release(std::uint32_t try_number) {
    caf::send_as(reader, store, release_request{7, try_number});
    run();
  }

  std::shared_ptr<kv_store_context> context = std::make_shared<kv_store_context>();
  kv_store_actor store;
  std::shared_ptr<std::vector<store_found>> found = std::make_shared<std::vector<store_found>>();
  store_reader reader = own(system.spawn(scripted_reader, found));
};

TEST_F(kv_store_actor_test, a_late_release_of_an_earlier_try_ends_no_lease) {
  auto ask = keep_a_prompt();
  look_up(ask);
  ask.try_number = 1;
  look_up(ask);
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ(found->back().blocks.size(), 2u);
  EXPECT_EQ(state().store->stats().leased, 2u);
  release(0);
  EXPECT_EQ(state().store->stats().leased, 2u);
  release(1);
  EXPECT_EQ(state().store->stats().leased, 0u);
}

// It lives on, and another handle leads there: what goes to the old one is heard by nobody.
TEST_F(kv_store_actor_test, a_store_whose_connection_ended_is_reached_anew) {
  auto before = std::make_shared<heard>(), after = std::make_shared<heard>();
  const auto first = make_other(before);
  caf::anon_send(store, with_other());
  run();
  const auto ask = keep_a_prompt();
  for (int i = 0; i < 8; ++i) look_up(ask);
  ASSERT_EQ(before->offers.size(), 1u) << "a copy of what is asked for often";
  end(first);
  make_other(after);
  pass(milliseconds(5500));  // as long as an answer is waited for
  look_up(ask);
  ASSERT_EQ(after->offers.size(), 1u);
  EXPECT_EQ(after->offers[0].blocks.size(), 2u);
}

// -- a node's store client -----------------------------------------------------------------------------------------------

struct store_client_test : store_actors_test {
  store_client_test() {
    auto made =
        engine::engine::make(runner, runner.arena(), engine::testing::small_options(runner));
    EXPECT_TRUE(made);
    engine_driver::hooks hooks;
    hooks.on_failure = [](const error& e) { ADD_FAILURE() << e.detail; };
    hooks.on_step = [](engine::step_report&&, auto) {};
    node->loop = std::make_unique<stepped_engine>(std::move(*made), std::move(hooks));
    node->metrics = std::make_unique<node_metrics>("mine", "prefill");
    client = own(system.spawn(store_client, node, identity));
  }
  auto be_told_of_a_store(const std::shared_ptr<heard>& log) {
    far = network->make_fabric(incarnation{other}, [](transport::event&&) {});
    EXPECT_TRUE(far->allocate(layout.block_bytes()));
    const auto store = make_other(log);
    auto m = with_other();
    m.members[0].info.transport_address = far->local_address().value_or("");
    caf::anon_send(client, m);
    run();
    return store;
  }

  const std::shared_ptr<const std::vector<token_id>> tokens =
      std::make_shared<const std::vector<token_id>>(engine::testing::make_prompt(3, 32));
  std::unique_ptr<transport::fabric> far;  // the store's
  engine::testing::fake_runner runner{64};
  store_client_actor client;
};

TEST_F(store_client_test, what_it_releases_is_of_the_try_that_ended) {
  auto log = std::make_shared<heard>();
  const auto store = be_told_of_a_store(log);
  for (attempt n : {0u, 1u}) caf::anon_send(client, prefix_wanted{request_id{7}, n, tokens, {}, 0});
  run();
  ASSERT_EQ(log->lookups.size(), 2u);
  caf::send_as(store, client, store_found{7, 0, 0, {}, true, 1});
  run();
  ASSERT_EQ(log->releases.size(), 1u);
  EXPECT_EQ(log->releases[0].id, 7u);
  EXPECT_EQ(log->releases[0].try_number, 0u);
  caf::send_as(store, client, store_found{7, 1, 0, {}, true, 1});
  run();
  ASSERT_EQ(log->releases.size(), 2u);
  EXPECT_EQ(log->releases[1].try_number, 1u);
}

TEST_F(store_client_test, it_waits_as_long_as_computing_pays_or_as_it_is_told) {
  auto log = std::make_shared<heard>();
  be_told_of_a_store(log);
  node->options.store_patience = milliseconds(60'000);
  caf::anon_send(client, prefix_wanted{request_id{7}, 0, tokens, {}, 0});
  pass(milliseconds(59'000));
  ASSERT_EQ(log->lookups.size(), 1u);
  EXPECT_TRUE(log->releases.empty());
  pass(milliseconds(2'000));
  EXPECT_EQ(log->releases.size(), 1u);
  node->options.store_patience = milliseconds(0);
  pass(milliseconds(31'000));  // it was silent, and is not asked for a while
  caf::anon_send(client, prefix_wanted{request_id{8}, 0, tokens, {}, 0});
  pass(milliseconds(1'100));
  ASSERT_EQ(log->lookups.size(), 2u);
  EXPECT_EQ(log->releases.size(), 2u);
}

}  // namespace
}  // namespace troupe::actors
