// KV stores in the world: what must hold of them, and what goes wrong with their memory.
#include "actors/kv_store.hpp"
#include "actors/store_client.hpp"
#include "tests/simulation/actor_state.hpp"
#include "tests/simulation/world.hpp"

namespace troupe::simulation {
namespace {

// Null until it has taken its first message, and once it has ended.
actors::kv_store_state* store_state(const actors::node_runtime& runtime) {
  auto* s = state_of<actors::kv_store_state, actors::kv_store_actor>(runtime.actors().front());
  return s != nullptr && s->store ? s : nullptr;
}

}  // namespace

void world::check_store(const node& n) {
  if (!n.runtime) return;
  const auto* s = store_state(*n.runtime);
  if (s == nullptr) return;
  const auto name = scenario_.process_name(n.index);
  if (auto broken = s->store->check_invariants(); !broken.empty())
    return violated(name + ": " + broken);
  const auto targeted = fabric_->targets(incarnation{n.start}).size();
  const auto filling = s->store->stats().filling;
  if (targeted > filling)
    violated(name + ": pulls may still write into " + std::to_string(targeted) +
             " blocks, but only " + std::to_string(filling) + " are kept for them");
}

void world::check_quiet_store(const node& n) {
  const auto name = scenario_.process_name(n.index);
  const auto* s = store_state(*n.runtime);
  if (s == nullptr) return violated(name + " has no actor");
  if (!s->offers.empty()) return violated(name + ": an offer is left");
  if (!s->leases.empty()) return violated(name + ": a reader's lease is left");
  if (!s->answers.empty()) return violated(name + ": an answer is left");
  for (const auto& [start, other] : s->other_stores)
    if (other.actor && has_ended(caf::actor_cast<caf::strong_actor_ptr>(other.actor)))
      return violated(name + ": it would talk to a store over a connection that ended");
  const auto stats = s->store->stats();
  if (stats.filling + stats.leased > 0)
    return violated(name + ": blocks are left: " + std::to_string(stats.filling) + " filling, " +
                    std::to_string(stats.leased) + " leased");
  if (!fabric_->targets(incarnation{n.start}).empty()) violated(name + ": a pull is left");
}

void world::check_quiet_store_client(const node& n) {
  const auto name = scenario_.process_name(n.index);
  const auto* c = state_of<actors::store_client_state, actors::store_client_actor>(
      n.runtime->services()->store_client);
  if (c == nullptr) return violated(name + ": its store client is gone");
  if (!c->fetches.empty()) return violated(name + ": a fetch from a store is left");
  if (c->stores.size() > scenario_.num_stores) return violated(name + ": a dead store is left");
}

// One bit of what the store keeps, in whatever state its block is.
void world::spoil_store(const node& n) {
  auto* s = n.runtime ? store_state(*n.runtime) : nullptr;
  if (s == nullptr) return;
  for (int i = 0; i < 8; ++i)
    s->context->arena[chance_.below(s->context->arena.size())] ^= std::byte{1};
}

void world::sum_store(const node& n) {
  const auto* s = n.runtime ? store_state(*n.runtime) : nullptr;
  if (s == nullptr) return;
  const auto stats = s->store->stats();
  sums_.blocks_stored += stats.stored;
  sums_.store_evictions += stats.evictions;
  for (const auto& [start, other] : s->other_stores) sums_.store_links += other.actor ? 1 : 0;
}

}  // namespace troupe::simulation
