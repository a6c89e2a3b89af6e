// Whom an actor talks to: connected as membership tells, lost at every end there is, and nothing heard that is late.
#include "actors/peer_set.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <caf/actor_system.hpp>
#include <caf/event_based_actor.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <deque>

#include "tests/simulation/actor_state.hpp"
#include "tests/simulation/coordinated_config.hpp"

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

struct note {
  int talks = 0;
};
using peers = peer_set<prefill_actor, note>;
using owner_actor = caf::typed_actor<caf::reacts_to<membership>, caf::reacts_to<caf::tick_atom>>;

struct owner_state {
  static inline const char* name = "owner";
  explicit owner_state(owner_actor::pointer selfptr) : self(selfptr) {}
  owner_actor::pointer self;
  peers all;
  std::vector<std::string> happened;
};

// Answers when the test says so.
using late_connector = connector_actor::extend<caf::reacts_to<caf::tick_atom>>;
struct connector_state {
  static inline const char* name = "connector";
  explicit connector_state(late_connector::pointer) {}
  using promise =
      caf::typed_response_promise<caf::node_id, caf::strong_actor_ptr, std::set<std::string>>;
  std::deque<promise> asked;
  prefill_actor answer;  // of the first that was asked; null: nobody is there
};

late_connector::behavior_type make_connector(
    late_connector::stateful_pointer<connector_state> self) {
  return {[self](caf::connect_atom, const std::string&, std::uint16_t) {
            auto p = self->make_response_promise<caf::node_id, caf::strong_actor_ptr,
                                                 std::set<std::string>>();
            self->state.asked.push_back(p);
            return p;
          },
          [self](caf::tick_atom) {
            auto& s = self->state;
            auto p = std::move(s.asked.front());
            s.asked.pop_front();
            if (s.answer)
              p.deliver(self->system().node(), caf::actor_cast<caf::strong_actor_ptr>(s.answer),
                        self->system().message_types(s.answer));
            else
              p.deliver(make_error(caf::sec::cannot_connect_to_node));
            s.answer = nullptr;
          }};
}

struct peer_set_test : ::testing::Test {
  peer_set_test() {
    connector = system.spawn(make_connector);
    owner = system.spawn(
        [this](owner_actor::stateful_pointer<owner_state> self) -> owner_actor::behavior_type {
          auto& s = self->state;
          s.all.start(self, {connector, milliseconds(3000), neighbours,
                             [this](const node_info&) { return link; },
                             [&s](std::uint64_t start, peers::peer&) {
                               s.happened.push_back("+" + std::to_string(start));
                             },
                             [&s](std::uint64_t start, const peers::peer&, const peers::loss& why) {
                               s.happened.push_back("-" + std::to_string(start) + ": " + why.why);
                             }});
          self->set_down_handler([&s](caf::down_msg& m) { s.all.down(m.source); });
          return {[&s](const membership& m) {
                    s.all.update(m, [](const member& n) { return n.info.kind == role::prefill; });
                  },
                  [](caf::tick_atom) {}};
        });
    run();
  }
  ~peer_set_test() override {
    for (auto& p : processes) end(p);
    caf::anon_send_exit(owner, caf::exit_reason::kill);
    caf::anon_send_exit(connector, caf::exit_reason::kill);
    run();
  }

  void run() { scheduler().run(); }
  caf::scheduler::test_coordinator& scheduler() {
    return dynamic_cast<caf::scheduler::test_coordinator&>(system.scheduler());
  }
  owner_state& state() {
    return *simulation::state_of<owner_state, owner_actor>(
        caf::actor_cast<caf::strong_actor_ptr>(owner));
  }
  connector_state& way() {
    return *simulation::state_of<connector_state, late_connector>(
        caf::actor_cast<caf::strong_actor_ptr>(connector));
  }
  std::deque<connector_state::promise>& asked() { return way().asked; }
  std::vector<std::string> happened() { return std::exchange(state().happened, {}); }

  void members(const std::vector<std::pair<std::uint64_t, node_state>>& all,
               role kind = role::prefill) {
    membership m;
    for (const auto& [start, node] : all) {
      m.members.emplace_back();
      m.members.back().info.start = start;
      m.members.back().info.kind = kind;
      m.members.back().info.host = "far";
      m.members.back().state = node;
    }
    caf::anon_send(owner, m);
    run();
  }
  prefill_actor process() {
    processes.push_back(system.spawn([]() -> prefill_actor::behavior_type {
      return {[](const prefill_request&) {},
              [](const release_request&) {},
              [](const metrics_request&) { return std::string(); },
              [](const prefix_events_request&) {},
              [](const drain_request&) {},
              [](const engine_happened&) {},
              [](const request_refused&) {}};
    }));
    return processes.back();
  }
  void end(const prefill_actor& p) {
    caf::anon_send_exit(p, caf::exit_reason::kill);
    run();
  }
  void answer(const prefill_actor& with) {
    way().answer = with;
    refuse();
  }
  void refuse() {
    caf::anon_send(connector, caf::tick_atom_v);
    run();
  }
  static constexpr auto ready = node_state::ready, draining = node_state::draining,
                        lost = node_state::lost;

  simulation::coordinated_config config;
  caf::actor_system system{config};
  std::shared_ptr<local_nodes> neighbours = std::make_shared<local_nodes>();
  result<void> link;
  std::vector<prefill_actor> processes;
  late_connector connector;
  owner_actor owner;
};

TEST_F(peer_set_test, connects_to_members_that_are_ready) {
  members({{1, ready}, {2, draining}, {3, lost}, {4, node_state::joining}});
  EXPECT_EQ(state().all.size(), 1u);
  EXPECT_EQ(state().all.connected(), 0u);
  EXPECT_FALSE(state().all.actor_of(1));
  const auto one = process();
  answer(one);
  EXPECT_THAT(happened(), ElementsAre("+1"));
  EXPECT_EQ(state().all.actor_of(1), one);
  EXPECT_EQ(state().all.start_of(one.address()), 1u);
  members({{1, draining}});  // it is talked to until it is gone
  members({{1, ready}});
  EXPECT_THAT(happened(), ElementsAre());
  EXPECT_TRUE(asked().empty());
}

TEST_F(peer_set_test, leaves_other_roles_alone) {
  members({{1, ready}}, role::decode);
  EXPECT_EQ(state().all.size(), 0u);
}

TEST_F(peer_set_test, a_neighbour_is_reached_at_once) {
  neighbours->add(1, caf::actor_cast<caf::strong_actor_ptr>(process()));
  members({{1, ready}});
  EXPECT_THAT(happened(), ElementsAre("+1"));
  EXPECT_TRUE(asked().empty());
}

TEST_F(peer_set_test, is_lost_with_its_connection_and_connected_anew) {
  members({{1, ready}});
  answer(process());
  end(processes[0]);
  EXPECT_THAT(happened(), ElementsAre("+1", "-1: its connection ended"));
  EXPECT_EQ(state().all.size() + state().all.connected(), 0u);
  members({{1, ready}});
  answer(process());
  EXPECT_THAT(happened(), ElementsAre("+1"));
}

TEST_F(peer_set_test, is_lost_when_membership_no_longer_names_it) {
  members({{1, ready}, {2, ready}});
  answer(process());
  answer(process());
  members({{1, lost}});
  EXPECT_THAT(happened(),
              ElementsAre("+1", "+2", "-1: it left the cluster", "-2: it left the cluster"));
  end(processes[0]);  // not watched any more
  EXPECT_THAT(happened(), ElementsAre());
}

// A plan may name a node before membership does.
TEST_F(peer_set_test, one_that_was_in_no_membership_yet_stays) {
  node_info early;
  early.start = 7;
  neighbours->add(7, caf::actor_cast<caf::strong_actor_ptr>(process()));
  state().all.connect(early);
  members({{1, ready}});
  EXPECT_TRUE(state().all.actor_of(7));
  members({{1, ready}, {7, ready}});
  members({{1, ready}});
  EXPECT_FALSE(state().all.actor_of(7));
}

TEST_F(peer_set_test, tells_why_one_cannot_be_reached) {
  members({{1, ready}});
  refuse();
  const auto told = happened();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_THAT(told[0], ::testing::StartsWith("-1: cannot connect to far:0"));
  EXPECT_EQ(state().all.size(), 0u);
  link = fail(ec::peer_lost, "no link");
  members({{1, ready}});
  EXPECT_THAT(happened(), ElementsAre("-1: " + to_string(link.error())));
  EXPECT_TRUE(asked().empty());
}

// The directory loses sight of a node while it is connected to, and finds it again.
TEST_F(peer_set_test, hears_nothing_of_an_attempt_that_was_given_up) {
  members({{1, ready}});
  members({{1, lost}});
  members({{1, ready}});
  ASSERT_EQ(asked().size(), 2u);
  std::swap(asked()[0], asked()[1]);
  answer(process());  // the second one
  EXPECT_THAT(happened(), ElementsAre("-1: it left the cluster", "+1"));
  refuse();  // the first one
  EXPECT_THAT(happened(), ElementsAre());
  EXPECT_EQ(state().all.actor_of(1), processes[0]);
}

// What membership still says of a dead node leads to the new one at its address.
TEST_F(peer_set_test, an_actor_is_one_incarnation) {
  members({{1, ready}});
  const auto started_again = process();  // as 2
  answer(started_again);
  members({{1, ready}, {2, ready}});
  answer(started_again);
  EXPECT_THAT(happened(), ElementsAre("+1", "-1: it was started again", "+2"));
  members({{1, lost}, {2, ready}});
  EXPECT_EQ(state().all.start_of(started_again.address()), 2u);
  end(started_again);
  EXPECT_THAT(happened(), ElementsAre("-2: its connection ended"));
}

TEST_F(peer_set_test, a_late_plan_does_not_take_the_place_of_a_member) {
  members({{2, ready}});
  const auto started_again = process();
  answer(started_again);
  node_info before = state().all.at(2).info;
  before.start = 1;
  neighbours->add(1, caf::actor_cast<caf::strong_actor_ptr>(started_again));
  state().all.connect(before);
  EXPECT_THAT(happened(), ElementsAre("+2", "-1: it was started again"));
  EXPECT_EQ(state().all.actor_of(2), started_again);
}

}  // namespace
}  // namespace troupe::actors
