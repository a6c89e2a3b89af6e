// The gateway actor: the door's side of every request. Routes it, follows it, and moves it when its decode node dies:
// the next node goes on after the tokens that were delivered, with the same random numbers, so the client sees a pause
// and never a gap, a duplicate or other text.
//
//   waiting ─► routing ─► connecting ─► following ─► finished
//                 ▲                           │ the decode node died, left or refused: excluded, next attempt
//                 └───────── parked ◄─────────┘ until a decode node is there and has room
//
// Requests wait here, in the admission queue, rather than in the nodes: only as many are routed as the decode nodes run
// at once and a few that they can begin to read. The same holds for what an outage left without a node: the first node
// that comes back gets what it has room for and the next ones the rest, the best priority and the oldest first. A request
// during which decode nodes died twice is not tried again, and not taken again for a while (poison).
//
// Every request has a deadline of its own and ends by it. Scheduled actor; state is touched by its handlers only.
#pragma once

#include <atomic>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <map>
#include <optional>
#include <set>

#include "actors/admission.hpp"
#include "actors/connect.hpp"
#include "actors/interfaces.hpp"
#include "actors/metrics.hpp"
#include "actors/node_services.hpp"
#include "actors/peer_set.hpp"
#include "actors/poison_list.hpp"

namespace troupe::actors {

struct gateway_options {
  std::uint32_t max_requests = 2048;  // followed at once; one more is ec::queue_full
  admission_options admission;
  std::uint32_t max_attempts =
      3;  // decode nodes that may fail one request; those that leave in order do not count
  std::chrono::milliseconds connect_timeout{3000};
  std::chrono::milliseconds route_timeout{2000};
  std::chrono::milliseconds no_worker_wait{
      4000};  // a killed decode node is restarted sooner than that
  std::chrono::milliseconds deadline_grace{
      2000};  // the nodes end a request at its deadline; then the gateway does
};

struct gateway_context {
  gateway_options options;
  directory_actor directory;
  router_actor router;
  std::shared_ptr<local_nodes> neighbours;
  connector_actor connector;
  std::shared_ptr<gateway_metrics> metrics;
  // How programs reach this gateway; complete once `published`, and then it joins the directory.
  node_info info;
  std::atomic<bool> published{false};
  std::atomic<std::uint32_t> in_flight{0};  // requests of every door and program
};

struct gateway_state {
  static inline const char* name = "troupe.gateway";
  explicit gateway_state(gateway_actor::pointer selfptr) : self(selfptr) {}
  gateway_actor::behavior_type make_behavior();

  using time_point = std::chrono::steady_clock::time_point;
  // Sequences of a node that does not say how many it runs, and of a cluster without nodes.
  static constexpr std::size_t room_unknown = 64;
  struct node_data {
    std::vector<std::uint64_t> waiting;  // requests to send once it is connected
    bool ready = false;                  // in the latest membership
  };
  using node_table = peer_set<caf::strong_actor_ptr, node_data>;
  struct request {
    generate_request
        message;  // as the client sent it; message.output grows with what was delivered
    stream_sink_actor client;
    std::uint64_t decode = 0;  // incarnation of the node that serves it; 0 while routing
    std::uint32_t try_number = 0, failures = 0;
    bool accepted = false, prompt_logprobs_sent = false, canceled = false;
    bool waiting = true;                 // in the admission queue
    bool routing = false;                // the router is asked and has not answered
    std::size_t output_at_dispatch = 0;  // tokens that earlier attempts delivered
    std::vector<std::uint64_t> excluded;
    error last_failure{ec::none, {}};
    time_point arrived, routed, deadline;
    std::uint64_t predicted_ttft_us = 0;        // from `routed` on
    std::string choice;                         // of the plan
    std::optional<time_point> no_worker_since;  // set while there is no decode node for it
  };

  // -- requests ------------------------------------------------------------------------------------------------------------
  void generate(const generate_request& r);
  void admit();  // routes waiting requests while the nodes have room
  // Requests that the connected decode nodes are given at once; 0: there are none.
  std::size_t room() const;
  void route(std::uint64_t id);
  void on_plan(std::uint64_t id, std::uint32_t try_number, const route_plan& plan);
  void dispatch(std::uint64_t id);
  void on_tokens(const generation_tokens& m);
  void on_finished(const generation_finished& m);
  void retry(std::uint64_t id, const error& why);
  void park(std::uint64_t id,
            const error& why);  // its attempt ended; or it has had all it may have
  void fail(std::uint64_t id, const error& why,
            engine::finish_reason reason = engine::finish_reason::error,
            std::chrono::seconds retry_after = {});
  void close(std::uint64_t id, generation_finished m);
  void cancel(std::uint64_t id);
  void check_deadlines();
  void route_parked();
  void await_worker(std::uint64_t id, const error& why);  // parks it, no longer than no_worker_wait
  request* find(std::uint64_t id, std::uint32_t try_number);
  caf::result<std::string> collect_metrics();  // of every node that answers in time
  drain_reply drain_node(const drain_node_request& r);

  // -- nodes ---------------------------------------------------------------------------------------------------------------
  std::vector<kv_store_actor> stores() const;  // that are reached
  caf::result<std::uint64_t> clear_stores();
  caf::result<pin_reply> pin_in_stores(const pin_request& r);
  void on_connected(std::uint64_t start, node_table::peer& n);
  void on_lost(std::uint64_t start, const node_table::peer& lost, const node_table::loss& why);
  decode_actor decoder(std::uint64_t start) const;  // null: not connected
  bool leaves(std::uint64_t start) const;           // it is being drained
  void track();                                     // how many requests there are
  void suspect(const std::vector<std::uint64_t>& on_lost_node);
  void on_membership(const membership& m);
  void beat();  // joins the directory, then heartbeats, so that programs find the gateway

  gateway_actor::pointer self;
  std::shared_ptr<gateway_context> context;
  std::map<std::uint64_t, request> requests;
  std::set<std::uint64_t> parked;  // of them: they wait for a decode node, or for one with room
  bool routing_parked = false;     // what ends meanwhile does not begin anew with the others
  std::optional<admission_queue> admission;  // from the options, once there is a context
  poison_list poison;
  node_table nodes;
  std::set<caf::actor_addr> clients;  // monitored
  std::map<caf::actor_addr, membership_listener> subscribers;
  membership latest;
  bool draining = false, member = false;
};

gateway_actor::behavior_type gateway(gateway_actor::stateful_pointer<gateway_state> self,
                                     std::shared_ptr<gateway_context> context);

}  // namespace troupe::actors
