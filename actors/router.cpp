#include "actors/router.hpp"

namespace troupe::actors {

router_actor::behavior_type router(router_actor::stateful_pointer<router_state> self,
                                   std::shared_ptr<gateway_metrics> metrics) {
  return {
      [self, metrics](const route_request& r) -> route_plan {
        auto decision = self->state.policy.decide(r);
        metrics->route_decision(decision.reason).Increment();
        return std::move(decision.plan);
      },
      [self](const membership& m) { self->state.policy.update(m); },
  };
}

}  // namespace troupe::actors
