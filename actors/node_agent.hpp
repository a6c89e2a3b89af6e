// The node agent: joins the directory, sends heartbeats, joins again after a restart of either side, passes membership
// to its role actor, and reports when a drain is complete.
//
//   connecting ─► joining ─► member ─► (draining) ─► left
//        ▲___________│__________│ the directory refused (final), died, or forgot this node
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <functional>

#include "actors/interfaces.hpp"
#include "actors/node_services.hpp"

namespace troupe::actors {

struct agent_context {
  std::shared_ptr<node_services> node;
  std::string directory_host;  // used when `directory` is null
  std::uint16_t directory_port = 0;
  directory_actor directory;                             // of this process, or null
  membership_listener role, store_client, draft_client;  // hear membership; may be null
  std::function<void(const error&)> on_refused;  // final: this node cannot be part of the cluster
  std::function<void()> on_drained;
};

struct agent_state {
  static inline const char* name = "troupe.agent";
  explicit agent_state(node_agent_actor::pointer selfptr) : self(selfptr) {}
  node_agent_actor::behavior_type make_behavior();
  void connect();
  void join(const directory_actor& to);
  void beat();

  node_agent_actor::pointer self;
  std::shared_ptr<agent_context> context;
  directory_actor directory;  // joined or joining
  bool connecting = false, member = false, refused = false, drained = false;
  std::string told_refusal;
  bool told_unreachable = false;  // once an outage, not once a beat
  std::chrono::steady_clock::time_point joined_at;
};

node_agent_actor::behavior_type node_agent(node_agent_actor::stateful_pointer<agent_state> self,
                                           std::shared_ptr<agent_context> context);

}  // namespace troupe::actors
