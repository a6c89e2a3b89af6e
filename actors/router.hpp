// The router actor: route_policy behind a mailbox, in the gateway's process.
//
// With each membership it asks every node that its gateway has reached what came and went in the node's cache since it
// last heard (prefix_events); an answer that is not the last page is followed by the next question at once.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <map>

#include "actors/interfaces.hpp"
#include "actors/metrics.hpp"
#include "actors/route_policy.hpp"

namespace troupe::actors {

struct router_state {
  static inline const char* name = "troupe.router";
  explicit router_state(router_actor::pointer selfptr) : self(selfptr) {}
  router_actor::behavior_type make_behavior();
  void on_membership(const membership& m);
  void ask(std::uint64_t start);

  struct source {
    prefix_source actor;
    std::chrono::steady_clock::time_point asked{};
    bool waiting = false;  // for its answer
  };
  router_actor::pointer self;
  std::shared_ptr<gateway_metrics> metrics;
  route_policy policy;
  std::map<std::uint64_t, source> sources;  // by incarnation
};

router_actor::behavior_type router(router_actor::stateful_pointer<router_state> self,
                                   std::shared_ptr<gateway_metrics> metrics);

}  // namespace troupe::actors
