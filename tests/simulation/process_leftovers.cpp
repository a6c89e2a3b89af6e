// What a process must not keep when all is quiet: CAF's own books, looked at from outside.
#include <caf/default_attachable.hpp>
#include <caf/scheduled_actor.hpp>

#include "tests/simulation/process_network.hpp"

namespace troupe::simulation {
namespace {

// Who joins and subscribes is watched for each.
constexpr std::size_t most_monitors = 2;

struct books : caf::scheduled_actor {
  static caf::attachable_ptr& attachments(caf::monitorable_actor& a) {
    return a.*(&books::attachables_head_);
  }
  static std::size_t requests(caf::scheduled_actor& a) {
    return (a.*(&books::multiplexed_responses_)).size();
  }
};

std::size_t monitors(const caf::strong_actor_ptr& watched, const caf::strong_actor_ptr& watcher) {
  auto* a = dynamic_cast<caf::monitorable_actor*>(watched->get());
  if (a == nullptr) return 0;
  const caf::default_attachable::predicate by_watcher(caf::actor_cast<caf::actor_addr>(watcher),
                                                      caf::default_attachable::monitor);
  std::size_t count = 0;
  for (auto* at = &books::attachments(*a); *at; at = &(*at)->next) count += by_watcher(*at) ? 1 : 0;
  return count;
}

}  // namespace

std::string process_network::left() const {
  for (const auto& [id, p] : processes_) {
    if (!p.alive) continue;
    for (const auto& a : p.actors) {
      auto* own = dynamic_cast<caf::scheduled_actor*>(a->get());
      if (own == nullptr || own->getf(caf::abstract_actor::is_cleaned_up_flag)) continue;
      const auto name = p.name + ": its " + own->name();
      if (books::requests(*own) > 0) return name + " waits for an answer";
      for (const auto& other : p.actors)
        if (monitors(other, a) > most_monitors) return name + "'s monitors of an actor pile up";
      for (const auto& [where, proxy] : p.proxies)
        if (monitors(proxy, a) > most_monitors) return name + "'s monitors of a peer pile up";
    }
    for (const auto& [where, proxy] : p.proxies)
      if (!alive(where.first)) return p.name + ": it keeps a handle of a process that has ended";
  }
  return {};
}

}  // namespace troupe::simulation
