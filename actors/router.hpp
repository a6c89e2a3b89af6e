// The router actor: route_policy behind a mailbox, in the gateway's process.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include "actors/interfaces.hpp"
#include "actors/metrics.hpp"
#include "actors/route_policy.hpp"

namespace troupe::actors {

struct router_state {
  static inline const char* name = "troupe.router";
  route_policy policy;
};

router_actor::behavior_type router(router_actor::stateful_pointer<router_state> self,
                                   std::shared_ptr<gateway_metrics> metrics);

}  // namespace troupe::actors
