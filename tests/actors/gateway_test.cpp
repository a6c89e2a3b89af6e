// The real gateway and router under CAF's test coordinator: virtual time, one thread, no sockets. Decode nodes and the
// client are scripted, so that each moment of a failure can be chosen.
#include "actors/gateway.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <caf/actor_system.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>
#include <set>

#include "actors/router.hpp"
#include "actors/wire.hpp"
#include "tests/simulation/coordinated_config.hpp"

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;

struct decode_log {
  std::vector<generate_request> requests;
  std::vector<std::uint64_t> canceled;
  std::vector<drain_request> drains;
};

decode_actor::behavior_type scripted_decode(decode_actor::pointer,
                                            std::shared_ptr<decode_log> log) {
  return {
      [log](const generate_request& r) { log->requests.push_back(r); },
      [log](const cancel_request& c) { log->canceled.push_back(c.id); },
      [](const blocks_ready&) {},
      [](const first_token&) {},
      [](const prefill_failed&) {},
      [](const membership&) {},
      [](const metrics_request&) -> std::string { return "# HELP x y\n# TYPE x gauge\nx 1\n"; },
      [](const prefix_events_request&) {},
      [log](const drain_request& d) { log->drains.push_back(d); },
      [](const engine_happened&) {},
      [](const pull_happened&) {},
      [](const link_lost&) {},
      [](const request_refused&) {},
      [](const request_admitted&) {},
      [](caf::tick_atom) {},
  };
}

struct client_log {
  int accepted = 0;
  std::vector<std::uint32_t> tokens;
  std::vector<generation_finished> ends;
};

stream_sink_actor::behavior_type scripted_client(stream_sink_actor::pointer,
                                                 std::shared_ptr<client_log> log) {
  return {
      [log](const generation_accepted&) { ++log->accepted; },
      [log](const generation_tokens& m) {
        for (const auto& t : m.tokens) {
          EXPECT_EQ(t.index, log->tokens.size());  // no gap, no duplicate
          log->tokens.push_back(t.token);
        }
      },
      [log](const generation_finished& m) { log->ends.push_back(m); },
  };
}

directory_actor::behavior_type silent_directory(directory_actor::pointer) {
  return {
      [](const join_request&) -> join_reply { return {}; },
      [](const heartbeat&) {},
      [](const subscribe_request&) {},
      [](caf::tick_atom) {},
  };
}

struct gateway_test : ::testing::Test {
  gateway_test() {
    context->neighbours = std::make_shared<local_nodes>();
    context->metrics = std::make_shared<gateway_metrics>("gateway");
    context->directory = system.spawn(silent_directory);
    context->router = system.spawn(router, context->metrics);
    door = system.spawn(gateway, context);
    client = system.spawn(scripted_client, received);
    scheduler.run();
  }
  ~gateway_test() override {
    for (auto& actor : {caf::actor_cast<caf::actor>(door), caf::actor_cast<caf::actor>(client),
                        caf::actor_cast<caf::actor>(context->router),
                        caf::actor_cast<caf::actor>(context->directory)})
      caf::anon_send_exit(actor, caf::exit_reason::kill);
    for (auto& [start, actor] : decodes) caf::anon_send_exit(actor, caf::exit_reason::kill);
    context->neighbours = nullptr;
    scheduler.run();
  }

  std::shared_ptr<decode_log> add_decode(const std::string& name, std::uint64_t start) {
    auto log = std::make_shared<decode_log>();
    auto actor = system.spawn(scripted_decode, log);
    decodes[start] = actor;
    logs[start] = log;
    context->neighbours->add(start, caf::actor_cast<caf::strong_actor_ptr>(actor));
    member m;
    m.info.name = name;
    m.info.start = start;
    m.info.block_tokens = 16;
    m.info.max_num_seqs = max_num_seqs;
    m.state = node_state::ready;
    members.members.push_back(m);
    publish();
    return log;
  }
  void publish() {
    ++members.version;
    caf::anon_send(door, members);
    scheduler.run();
  }
  void submit(std::uint64_t id, std::uint64_t timeout_ms = 60'000, std::int32_t priority = 0) {
    generate_request r;
    r.id = id;
    r.prompt = {1, 2, 3};
    r.sampling.seed = 77;
    r.sampling.max_tokens = 97;
    r.timeout_ms = timeout_ms;
    r.priority = priority;
    caf::send_as(client, door, std::move(r));
    scheduler.run();
  }
  template <class Message>
  void say(Message m) {
    caf::anon_send(door, std::move(m));
    scheduler.run();
  }
  void tokens(std::uint64_t id, std::uint32_t try_number, std::uint32_t first,
              std::vector<std::uint32_t> ids) {
    generation_tokens m{id, try_number, false, {}};
    for (auto t : ids) m.tokens.push_back({first++, t, 0, {}, {}});
    say(m);
  }
  void finished(std::uint64_t id, std::uint32_t try_number, engine::finish_reason reason,
                ec code = ec::none) {
    generation_finished m;
    m.id = id;
    m.try_number = try_number;
    m.reason = static_cast<std::uint8_t>(reason);
    m.code = code;
    say(m);
  }
  void kill_decode(std::uint64_t start) {
    caf::anon_send_exit(decodes.at(start), caf::exit_reason::kill);
    scheduler.run();
  }
  void pass(milliseconds t) {
    for (milliseconds step{0}; step < t; step += milliseconds(50)) {
      scheduler.advance_time(milliseconds(50));
      scheduler.run();
    }
  }

  simulation::coordinated_config cfg;
  caf::actor_system system{cfg};
  caf::scheduler::test_coordinator& scheduler =
      dynamic_cast<caf::scheduler::test_coordinator&>(system.scheduler());
  std::shared_ptr<gateway_context> context = std::make_shared<gateway_context>();
  std::shared_ptr<client_log> received = std::make_shared<client_log>();
  std::map<std::uint64_t, decode_actor> decodes;
  std::map<std::uint64_t, std::shared_ptr<decode_log>> logs;
  std::uint32_t max_num_seqs = 0;  // of nodes that are added
  membership members;
  gateway_actor door;
  stream_sink_actor client;
};

TEST_F(gateway_test, streams_an_answer) {
  auto d = add_decode("decode-0", 1);
  submit(5);
  ASSERT_EQ(d->requests.size(), 1u);
  say(generation_accepted{5, 0});
  tokens(5, 0, 0, {10, 11});
  tokens(5, 0, 2, {12});
  finished(5, 0, engine::finish_reason::stop);
  EXPECT_EQ(received->accepted, 1);
  EXPECT_EQ(received->tokens, (std::vector<std::uint32_t>{10, 11, 12}));
  ASSERT_EQ(received->ends.size(), 1u);
  EXPECT_EQ(received->ends[0].reason, static_cast<std::uint8_t>(engine::finish_reason::stop));
  EXPECT_EQ(received->ends[0].migrations, 0u);
}

TEST_F(gateway_test, a_dead_decode_node_is_replaced_where_it_stopped) {
  auto a = add_decode("decode-0", 1);
  auto b = add_decode("decode-1", 2);
  submit(5);
  auto& first = a->requests.empty() ? b : a;
  auto& second = a->requests.empty() ? a : b;
  const std::uint64_t dead = first == a ? 1 : 2;
  tokens(5, 0, 0, {10, 11});
  kill_decode(dead);
  ASSERT_EQ(second->requests.size(), 1u);
  EXPECT_EQ(second->requests[0].try_number, 1u);
  EXPECT_EQ(second->requests[0].output, (std::vector<std::uint32_t>{10, 11}));
  EXPECT_EQ(second->requests[0].sampling.seed, 77u);
  tokens(5, 0, 2, {99});      // late words of the dead node's attempt
  tokens(5, 1, 1, {11, 12});  // an overlap is delivered once
  finished(5, 1, engine::finish_reason::length);
  EXPECT_EQ(received->tokens, (std::vector<std::uint32_t>{10, 11, 12}));
  ASSERT_EQ(received->ends.size(), 1u);
  EXPECT_EQ(received->ends[0].migrations, 1u);
}

TEST_F(gateway_test, waits_for_a_restarted_decode_node) {
  auto a = add_decode("decode-0", 1);
  submit(5);
  tokens(5, 0, 0, {10});
  kill_decode(1);
  EXPECT_TRUE(received->ends.empty());
  members.members.clear();
  auto b = add_decode("decode-0", 2);
  pass(milliseconds(300));
  ASSERT_EQ(b->requests.size(), 1u);
  EXPECT_EQ(b->requests[0].output, (std::vector<std::uint32_t>{10}));
}

TEST_F(gateway_test, without_any_decode_node_the_error_is_typed_and_in_time) {
  submit(5);
  pass(milliseconds(3500));
  EXPECT_TRUE(received->ends.empty());
  pass(milliseconds(1500));
  ASSERT_EQ(received->ends.size(), 1u);
  EXPECT_EQ(received->ends[0].code, ec::no_worker);
}

TEST_F(gateway_test, a_full_node_is_not_asked_again) {
  auto a = add_decode("decode-0", 1);
  submit(5);
  finished(5, 0, engine::finish_reason::error, ec::queue_full);
  ASSERT_EQ(received->ends.size(), 1u);
  EXPECT_EQ(received->ends[0].code, ec::queue_full);
  EXPECT_EQ(a->requests.size(), 1u);
}

TEST_F(gateway_test, gives_up_after_its_attempts) {
  for (std::uint64_t i = 1; i <= 5; ++i) add_decode("decode-" + std::to_string(i), i);
  submit(5);
  for (std::uint32_t attempt = 0; attempt < 3; ++attempt)
    finished(5, attempt, engine::finish_reason::error, ec::device_lost);
  ASSERT_EQ(received->ends.size(), 1u);
  EXPECT_EQ(received->ends[0].code, ec::device_lost);
}

TEST_F(gateway_test, nodes_that_leave_in_order_are_no_failures) {
  for (std::uint64_t i = 1; i <= 5; ++i) add_decode("decode-" + std::to_string(i), i);
  submit(5);
  for (std::uint32_t attempt = 0; attempt < 4; ++attempt)
    finished(5, attempt, engine::finish_reason::error, ec::draining);
  EXPECT_TRUE(received->ends.empty());
  tokens(5, 4, 0, {10});
  finished(5, 4, engine::finish_reason::length);
  ASSERT_EQ(received->ends.size(), 1u);
  EXPECT_EQ(received->ends[0].code, ec::none);
}

TEST_F(gateway_test, a_gap_is_never_delivered) {
  auto a = add_decode("decode-0", 1);
  auto b = add_decode("decode-1", 2);
  submit(5);
  tokens(5, 0, 0, {10});
  tokens(5, 0, 2, {12});  // token 1 is missing: another node computes it
  EXPECT_EQ(received->tokens, (std::vector<std::uint32_t>{10}));
  EXPECT_EQ(a->requests.size() + b->requests.size(), 2u);
}

TEST_F(gateway_test, a_deadline_ends_a_silent_request) {
  auto a = add_decode("decode-0", 1);
  submit(5, 1000);
  pass(milliseconds(2500));
  EXPECT_TRUE(received->ends.empty());  // the node ends it first, if it can
  pass(milliseconds(1000));
  ASSERT_EQ(received->ends.size(), 1u);
  EXPECT_EQ(received->ends[0].code, ec::deadline_exceeded);
  EXPECT_EQ(a->canceled, (std::vector<std::uint64_t>{5}));
}

TEST_F(gateway_test, a_client_that_dies_cancels) {
  auto a = add_decode("decode-0", 1);
  submit(5);
  caf::anon_send_exit(client, caf::exit_reason::kill);
  scheduler.run();
  EXPECT_EQ(a->canceled, (std::vector<std::uint64_t>{5}));
}

TEST_F(gateway_test, a_node_lost_by_heartbeat_is_dropped) {
  auto a = add_decode("decode-0", 1);
  auto b = add_decode("decode-1", 2);
  submit(5);
  auto& second = a->requests.empty() ? a : b;
  members.members.at(a->requests.empty() ? 1 : 0).state = node_state::lost;
  publish();
  EXPECT_EQ(second->requests.size(), 1u);
  auto& first = second == a ? b : a;
  EXPECT_EQ(first->canceled, (std::vector<std::uint64_t>{5})) << "it may only have been slow";
}

TEST_F(gateway_test, draining_refuses_new_requests_and_ends_old_ones) {
  add_decode("decode-0", 1);
  submit(5);
  say(drain_request{});
  submit(6);
  ASSERT_EQ(received->ends.size(), 1u);
  EXPECT_EQ(received->ends[0].id, 6u);
  EXPECT_EQ(received->ends[0].code, ec::draining);
  finished(5, 0, engine::finish_reason::stop);
  EXPECT_EQ(received->ends.size(), 2u);
}

TEST_F(gateway_test, requests_wait_here_and_not_in_the_node) {
  max_num_seqs = 4;
  auto d = add_decode("decode-0", 1);
  for (std::uint64_t id = 1; id <= 8; ++id) submit(id);
  submit(9, 60'000, -1);
  EXPECT_EQ(d->requests.size(), 5u);  // four and a quarter of them
  finished(1, 0, engine::finish_reason::stop);
  ASSERT_EQ(d->requests.size(), 6u);
  EXPECT_EQ(d->requests[5].id, 9u);  // the better priority
  finished(2, 0, engine::finish_reason::stop);
  ASSERT_EQ(d->requests.size(), 7u);
  EXPECT_EQ(d->requests[6].id, 6u);
  say(cancel_request{7});  // one that waits ends at once
  ASSERT_EQ(received->ends.size(), 3u);
  EXPECT_EQ(received->ends[2].id, 7u);
  EXPECT_EQ(received->ends[2].reason, static_cast<std::uint8_t>(engine::finish_reason::abort));
  for (std::uint64_t id : {3, 4, 5, 6, 9, 8}) finished(id, 0, engine::finish_reason::stop);
  EXPECT_EQ(received->ends.size(), 9u);
  EXPECT_TRUE(d->canceled.empty());
}

TEST_F(gateway_test, what_an_outage_left_is_given_by_capacity) {
  max_num_seqs = 8;
  auto lost = add_decode("decode-0", 1);
  for (std::uint64_t id = 1; id <= 10; ++id) submit(id);
  EXPECT_EQ(lost->requests.size(), 10u);
  kill_decode(1);
  members.members.clear();
  max_num_seqs = 4;
  auto first = add_decode("decode-2", 3);
  EXPECT_EQ(first->requests.size(), 5u) << "four and a quarter of them";
  pass(milliseconds(6000));
  EXPECT_EQ(first->requests.size(), 5u);
  EXPECT_TRUE(received->ends.empty()) << "those that wait for room are not given up";
  finished(first->requests.at(0).id, 1, engine::finish_reason::stop);
  EXPECT_EQ(first->requests.size(), 6u);
  members.members.front().load.running = 5;
  auto second = add_decode("decode-3", 4);
  EXPECT_EQ(second->requests.size(), 4u) << "the rest";
  std::set<std::uint64_t> served;
  for (const auto& node : {first, second})
    for (const auto& r : node->requests) EXPECT_TRUE(served.insert(r.id).second) << r.id;
  EXPECT_EQ(served.size(), 10u);
}

TEST_F(gateway_test, of_what_a_lost_node_had_the_best_goes_on_first) {
  max_num_seqs = 8;
  add_decode("decode-0", 1);
  for (std::uint64_t id = 1; id <= 8; ++id) submit(id, 60'000, id > 6 ? -1 : 0);
  max_num_seqs = 3;
  members.members.front().load.running = 0;
  auto other = add_decode("decode-1", 2);
  EXPECT_TRUE(other->requests.empty());
  kill_decode(1);
  ASSERT_EQ(other->requests.size(), 4u) << "three and a quarter of them";
  std::vector<std::uint64_t> ids;
  for (const auto& r : other->requests) ids.push_back(r.id);
  EXPECT_EQ(ids, (std::vector<std::uint64_t>{7, 8, 1, 2}));
}

TEST_F(gateway_test, a_request_that_would_miss_its_deadline_is_refused_with_the_time) {
  max_num_seqs = 1;
  auto d = add_decode("decode-0", 1);
  for (std::uint64_t id = 1; id <= 30; ++id) submit(id);
  std::uint64_t done = 0;
  for (int second = 0; second < 6; ++second) {  // one request a second
    pass(milliseconds(1000));
    finished(++done, 0, engine::finish_reason::stop);
  }
  const auto ends = received->ends.size();
  submit(100, 5000);  // two dozen seconds of work are before it
  ASSERT_EQ(received->ends.size(), ends + 1);
  EXPECT_EQ(received->ends.back().code, ec::overloaded);
  EXPECT_GT(received->ends.back().retry_after_s, 5u);
  submit(101, 60'000);
  EXPECT_EQ(received->ends.size(), ends + 1);
}

TEST_F(gateway_test, many_requests_may_become_late_at_once) {
  max_num_seqs = 1;
  auto d = add_decode("decode-0", 1);
  for (std::uint64_t id = 1; id <= 4; ++id) {  // so that the time of an answer is known
    submit(id);
    pass(milliseconds(1000));
    finished(id, 0, engine::finish_reason::stop);
  }
  for (std::uint64_t id = 10; id <= 14; ++id) submit(id, 6500);
  scheduler.advance_time(milliseconds(30'000));  // the whole process stood still
  scheduler.run();
  pass(milliseconds(500));
  EXPECT_EQ(received->ends.size(), 9u);
  submit(20);
  finished(20, 0, engine::finish_reason::stop);
  EXPECT_EQ(received->ends.size(), 10u) << "the gateway lives";
}

TEST_F(gateway_test, a_poison_request_is_refused_the_third_time) {
  for (std::uint64_t i = 1; i <= 4; ++i) add_decode("decode-" + std::to_string(i), i);
  auto where = [&](std::uint64_t id, std::uint32_t attempt) -> std::uint64_t {
    for (auto& [start, log] : logs)
      for (const auto& r : log->requests)
        if (r.id == id && r.try_number == attempt) return start;
    return 0;
  };
  submit(5);
  kill_decode(where(5, 0));
  ASSERT_NE(where(5, 1), 0u);
  EXPECT_TRUE(received->ends.empty());
  kill_decode(where(5, 1));
  ASSERT_EQ(received->ends.size(), 1u);
  EXPECT_EQ(received->ends[0].code, ec::poison);
  EXPECT_EQ(where(5, 2), 0u) << "a third node was tried";
  submit(6);  // the same prompt again
  ASSERT_EQ(received->ends.size(), 2u);
  EXPECT_EQ(received->ends[1].code, ec::poison);
  pass(milliseconds(11 * 60 * 1000));
  submit(7);
  EXPECT_NE(where(7, 0), 0u) << "forgotten in time";
}

TEST_F(gateway_test, one_death_counts_once_for_a_prompt_that_ran_twice) {
  for (std::uint64_t i = 1; i <= 2; ++i) add_decode("decode-" + std::to_string(i), i);
  members.members.at(1).state = node_state::lost;
  publish();
  submit(5);
  submit(6);  // the same prompt, as of a client that asks for two answers
  members.members.at(1).state = node_state::ready;
  publish();
  kill_decode(1);
  EXPECT_TRUE(received->ends.empty());
  EXPECT_EQ(logs.at(2)->requests.size(), 2u);
}

TEST_F(gateway_test, a_node_that_ends_while_it_drains_is_no_sign_of_poison) {
  for (std::uint64_t i = 1; i <= 4; ++i) add_decode("decode-" + std::to_string(i), i);
  submit(5);
  for (int restarts = 0; restarts < 3; ++restarts) {
    const auto at = std::find_if(logs.begin(), logs.end(), [](const auto& l) {
      return !l.second->requests.empty() && l.second->drains.empty();
    });
    ASSERT_NE(at, logs.end());
    at->second->drains.emplace_back();
    members.members.at(at->first - 1).state = node_state::draining;
    publish();
    kill_decode(at->first);
  }
  ASSERT_EQ(received->ends.size(), 1u) << "three nodes were lost with it";
  EXPECT_EQ(received->ends[0].code, ec::peer_lost);
}

TEST_F(gateway_test, an_answered_request_is_no_poison) {
  for (std::uint64_t i = 1; i <= 4; ++i) add_decode("decode-" + std::to_string(i), i);
  for (std::uint64_t id = 1; id <= 3; ++id) {
    submit(id);
    for (auto& [start, log] : logs)
      if (!log->requests.empty() && log->requests.back().id == id) {
        kill_decode(start);
        members.members.at(start - 1).state = node_state::lost;
        publish();
        break;
      }
    finished(id, 1, engine::finish_reason::stop);
  }
  ASSERT_EQ(received->ends.size(), 3u);
  for (const auto& e : received->ends) EXPECT_EQ(e.code, ec::none);
}

TEST_F(gateway_test, drains_a_node_but_not_the_last_decode) {
  auto ask = [&](const std::string& node, bool force) {
    caf::scoped_actor self{system, true};
    auto pending =
        self->request(door, milliseconds(5000), drain_node_request{node, {1234, true}, force});
    scheduler.run();
    drain_reply reply{ec::internal, "no answer"};
    pending.receive([&](const drain_reply& r) { reply = r; }, [](const caf::error&) {});
    return reply.code;
  };
  auto d = add_decode("decode-0", 1);
  EXPECT_EQ(ask("decode-9", false), ec::not_found);
  EXPECT_EQ(ask("decode-0", false), ec::invalid_argument);
  EXPECT_TRUE(d->drains.empty());
  EXPECT_EQ(ask("decode-0", true), ec::none);
  add_decode("decode-1", 2);
  EXPECT_EQ(ask("decode-0", false), ec::none);
  ASSERT_EQ(d->drains.size(), 2u);
  EXPECT_EQ(d->drains[0].timeout_ms, 1234u);
  EXPECT_TRUE(d->drains[0].restart);
}

TEST_F(gateway_test, a_draining_node_hands_its_requests_over) {
  auto a = add_decode("decode-0", 1);
  auto b = add_decode("decode-1", 2);
  submit(5);
  tokens(5, 0, 0, {10, 11});
  finished(5, 0, engine::finish_reason::error, ec::draining);
  auto& second = a->requests.size() == 1 && b->requests.empty() ? a : b;
  ASSERT_EQ(a->requests.size() + b->requests.size(), 2u);
  EXPECT_EQ(second->requests.back().output, (std::vector<std::uint32_t>{10, 11}));
  tokens(5, 1, 2, {12});
  finished(5, 1, engine::finish_reason::length);
  EXPECT_EQ(received->tokens, (std::vector<std::uint32_t>{10, 11, 12}));
}

TEST_F(gateway_test, metrics_of_all_nodes_are_gathered) {
  add_decode("decode-0", 1);
  caf::scoped_actor self{system, true};
  auto pending = self->request(door, milliseconds(5000), metrics_request{});
  scheduler.run();
  pending.receive(
      [](const std::string& text) {
        EXPECT_NE(text.find("troupe_route_decisions_total"), std::string::npos);
        EXPECT_NE(text.find("\nx 1\n"), std::string::npos);
      },
      [](const caf::error&) { FAIL() << "no metrics"; });
}

}  // namespace
}  // namespace troupe::actors
