// The decode actor: takes requests, has their prompts read by a prefill node or reads them itself, streams tokens.
//
// A request with a prefill node:
//
//   generate_request ─► engine reserves blocks ─► prefill_request ─► blocks_ready* ─► pulls ─► verified ─► running
//                                                       first_token ─► streamed at once
//   prefill refuses, dies, is silent, or a fence does not match ─► the engine computes what is missing
//
// Losing the prefill node changes speed, never text. Scheduled actor; all state is touched by its handlers only.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <map>
#include <set>
#include <string>

#include "actors/interfaces.hpp"
#include "actors/node_services.hpp"
#include "actors/peer_set.hpp"
#include "actors/wire.hpp"

namespace troupe::actors {

struct decode_state {
  static inline const char* name = "troupe.decode";
  explicit decode_state(decode_actor::pointer selfptr) : self(selfptr) {}
  decode_actor::behavior_type make_behavior();

  // Of a prefill node.
  struct peer_data {
    std::vector<std::uint64_t> waiting;  // requests to send once connected
  };
  using peer_table = peer_set<prefill_actor, peer_data>;
  // The remote prefill of a request, from asking until the blocks there are released.
  struct remote_part {
    std::uint64_t peer = 0;
    prefill_request message;
    bool asked = false, all_announced = false;
    std::uint32_t pulls_running = 0;
    std::chrono::steady_clock::time_point last_progress;
  };
  struct entry {
    std::uint32_t try_number = 0;
    stream_sink_actor sink;
    std::optional<remote_part> remote;
    generation_finished trace;  // names, route, path, blocks: what only this actor knows
  };

  // -- requests (decode.cpp) ---------------------------------------------------------------------------------------------
  void generate(const generate_request& r);
  void cancel(std::uint64_t id);
  void on_events(const engine::events& e);
  void on_refused(const request_refused& r);
  void finish(std::uint64_t id, generation_finished message);
  void on_down(const caf::down_msg& down);
  void drain(const drain_request& d);
  void hand_over();  // the gateway moves the requests to another node
  void cancel_in_engine(std::uint64_t id);
  // Runs `c` on the engine; if it cannot, the request ends with the reason.
  void post(std::uint64_t id, engine_driver::command c);

  // -- remote prefill (decode_remote.cpp) ----------------------------------------------------------------------------------
  void ask_prefill(std::uint64_t id);
  void on_peer_lost(std::uint64_t start, const peer_table::peer& lost, const std::string& why);
  void on_blocks(const blocks_ready& m);
  void on_first_token(const first_token& m);
  void on_pull(const pull_happened& m);
  void end_remote(std::uint64_t id, bool compute_rest, const std::string& why);
  void check_silence();

  decode_actor::pointer self;
  std::shared_ptr<node_services> node;
  std::map<std::uint64_t, entry> entries;
  peer_table peers;
  std::set<caf::actor_addr> sinks;                                    // monitored
  std::optional<std::chrono::steady_clock::time_point> hand_over_at;  // while draining
};

decode_actor::behavior_type decode(decode_actor::stateful_pointer<decode_state> self,
                                   std::shared_ptr<node_services> node);

}  // namespace troupe::actors
