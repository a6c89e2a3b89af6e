#include "actors/router.hpp"

#include <set>

namespace troupe::actors {
namespace {

constexpr auto answer_timeout = std::chrono::seconds(2);  // then it is asked again

}  // namespace

void router_state::ask(std::uint64_t start) {
  auto it = sources.find(start);
  if (it == sources.end()) return;
  it->second.waiting = true;
  it->second.asked = self->clock().now();
  self->send(it->second.actor, policy.prefixes().ask(start));
}

void router_state::on_membership(const membership& m) {
  const auto now = self->clock().now();
  policy.update(m, now);
  std::set<std::uint64_t> alive;
  for (const auto& n : m.members)
    if (n.state != node_state::lost) alive.insert(n.info.start);
  std::erase_if(sources, [&](const auto& s) { return !alive.contains(s.first); });
  for (auto& [start, s] : sources)
    if (policy.prefixes().follows(start) && (!s.waiting || now - s.asked > answer_timeout))
      ask(start);
  metrics->route_known_blocks.Set(static_cast<double>(policy.prefixes().size()));
}

router_actor::behavior_type router_state::make_behavior() {
  return {
      [this](const route_request& r) -> route_plan {
        auto decision = policy.decide(r, self->clock().now());
        metrics->route_decision(decision.reason).Increment();
        return std::move(decision.plan);
      },
      [this](const membership& m) { on_membership(m); },
      [this](const prefix_events& e) {
        auto it = sources.find(e.start);
        if (it == sources.end()) return;
        it->second.waiting = false;
        const auto resets = policy.prefixes().resets();
        const bool more = policy.prefixes().apply(e);
        metrics->route_events.Increment(static_cast<double>(e.changes.size()));
        metrics->route_snapshots.Increment(
            static_cast<double>(policy.prefixes().resets() - resets));
        if (more) ask(e.start);
      },
      [this](const node_reached& r) {
        sources[r.start] = {caf::actor_cast<prefix_source>(r.actor), {}, false};
        ask(r.start);
      },
  };
}

router_actor::behavior_type router(router_actor::stateful_pointer<router_state> self,
                                   std::shared_ptr<gateway_metrics> metrics) {
  self->state.metrics = std::move(metrics);
  return self->state.make_behavior();
}

}  // namespace troupe::actors
