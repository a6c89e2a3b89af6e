// A whole cluster in one thread under virtual time: the real actors, engines and block pullers, over simulated
// processes, connections, fabric and clocks. One scenario, one outcome, to the bit.
//
//   while something can happen:
//     an actor has a message  ─► pick one such actor by chance, let it take one message
//     else                    ─► the clock moves to the next event: a timer, a message's arrival, a pull's progress,
//                                an engine's turn, a fault
//     after each              ─► invariants
//
// Then time goes on until nothing may be left of any request (quiescence), and what is left is a violation.
#pragma once

#include <caf/actor_system.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <map>
#include <memory>

#include "actors/node_runtime.hpp"
#include "actors/server_actors.hpp"
#include "tests/simulation/client.hpp"
#include "tests/simulation/coordinated_config.hpp"
#include "tests/simulation/scenario.hpp"
#include "tests/simulation/stepped_driver.hpp"

namespace troupe::simulation {

struct outcome {
  std::string violation;  // empty: every invariant held
  std::uint64_t hash = 0, events = 0;
  std::vector<std::string> lines;  // if the trace was kept
  milliseconds virtual_time{0};
  // For the tables: how requests ended and what the faults did.
  std::uint32_t answered = 0, failed = 0, canceled = 0, connection_lost = 0, client_gone = 0;
  std::uint32_t migrated = 0;
  std::map<std::string, std::uint32_t> failures;  // by error code
  std::map<std::string, std::uint32_t> paths;     // by which blocks travelled
  std::uint64_t blocks_pulled = 0, fence_failures = 0, leases_expired = 0, preemptions = 0;
  std::uint64_t messages = 0;
  std::uint64_t blocks_stored = 0, store_evictions = 0, store_hits = 0;  // hits: requests
  std::uint64_t store_links = 0;  // from one store to another, when all is quiet
  // Tokens: what drafts made, what was verified of their guesses and of those from the text, what was right of each.
  std::uint64_t guessed = 0, draft_evictions = 0;
  std::uint64_t draft_drafted = 0, draft_accepted = 0, drafted = 0, accepted = 0, branches_won = 0;
};

struct run_options {
  bool keep_trace = false;
};
outcome run(const scenario& s, const run_options& options = {});

// -- what run() builds; classes_test.cpp looks inside -------------------------------------------------------------------------
class world {
 public:
  world(const scenario& s, const run_options& options);
  ~world();
  outcome run();

 private:
  struct node {  // a process of one role, over its restarts
    std::uint32_t index = 0;
    process_id process = 0;
    std::unique_ptr<actors::node_runtime> runtime;
    stepped_engine* driver = nullptr;  // of decode and prefill nodes
    stepped_draft* drafter = nullptr;  // of drafts
    gpu::model_runner* device = nullptr;
    const transport::fabric* fabric = nullptr;
    std::shared_ptr<actors::local_nodes> neighbours;
    std::uint64_t start = 0, previous_start = 0;
    bool leaving = false;
    time_point slow_until{};
  };

  // -- building (world.cpp)
  void start_server();
  void start_node(std::uint32_t index);
  void start_clients();
  actors::node_platform platform_of(node& n);
  time_point to_local(std::uint32_t index, time_point t) const;
  time_point to_true(std::uint32_t index, time_point t) const;

  // -- time
  bool run_one_actor();
  bool run_next(time_point until);
  void run_until(time_point until, const std::function<bool()>& done);

  // -- faults (world_faults.cpp)
  void schedule_faults();
  void inflict(const fault& f);
  void end_process(process_id p, bool silent);
  void end_node(std::uint32_t index, bool silent, milliseconds restart_after);
  void end_server(bool silent, milliseconds restart_after);
  void leave(std::uint32_t index);
  void watch_nodes();
  void cut_all(std::uint32_t index, time_point until);
  process_id process_of(std::uint32_t index) const;
  turn_context turn_context_of(node& n);
  nanoseconds hiccup(const node& n, nanoseconds longest);

  // -- KV stores (world_stores.cpp)
  void check_store(const node& n);
  void check_quiet_store(const node& n);
  void check_quiet_store_client(const node& n);
  void spoil_store(const node& n);
  void sum_store(const node& n);

  // -- drafts (world_drafts.cpp)
  std::unique_ptr<actors::draft_driver> make_drafter(node& n,
                                                     std::unique_ptr<engine::draft_engine> e,
                                                     actors::draft_driver::hooks h);
  engine::speculation_options speculation() const;
  caf::message nonsense(const caf::message& m);
  void check_draft(const node& n);
  void check_draft_engine(const node& n);
  void check_draft_client(const node& n);
  void check_quiet_draft(const node& n);
  void check_quiet_draft_client(const node& n);

  // -- invariants (world_invariants.cpp)
  void check_node(const node& n);
  void check_fabric();
  void check_conversation(const conversation& c);
  void check_bounds();
  void check_quiescence();
  void check_quiet_processes();
  void check_quiet_server();
  void violated(const std::string& what);
  void sum_node(const node& n);
  void settle(outcome& out);

  const scenario scenario_;
  trace trace_;
  random chance_;
  coordinated_config config_;
  caf::actor_system system_;
  caf::scheduler::test_coordinator& scheduler_;
  event_queue events_;
  process_network network_;
  std::unique_ptr<transport::sim_network> fabric_;
  const time_point begin_;
  const gpu::kv_layout store_layout_;

  process_id server_ = 0;
  actors::server_actors server_actors_;
  std::map<std::uint32_t, node> nodes_;  // by index of the scenario
  struct client_process {
    process_id process = 0;
    caf::strong_actor_ptr actor;
    std::shared_ptr<client_book> book;
  };
  std::vector<client_process> clients_;
  std::vector<std::unique_ptr<conversation>> conversations_;
  std::uint64_t next_start_ = 1;
  std::string violation_;
  milliseconds impaired_{0};  // how long the way between clients and server was not open
  outcome sums_;              // of nodes that have ended
};

}  // namespace troupe::simulation
