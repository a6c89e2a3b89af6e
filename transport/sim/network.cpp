#include "transport/sim/network.hpp"

#include "base/mutation.hpp"
#include "transport/sim/node.hpp"

namespace troupe::transport::sim {

std::uint64_t random_source::next() {  // splitmix64
  std::uint64_t z = state_ += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

std::chrono::nanoseconds random_source::between(std::chrono::nanoseconds low,
                                                std::chrono::nanoseconds high) {
  TROUPE_ASSERT(low <= high);
  return low +
         std::chrono::nanoseconds(below(static_cast<std::uint64_t>((high - low).count()) + 1));
}

std::unique_ptr<fabric> network::make_fabric(incarnation self, event_sink sink) {
  TROUPE_ASSERT(!nodes_.contains(self));
  auto made = std::make_unique<node>(*this, self, std::move(sink));
  nodes_[self] = made.get();
  return made;
}

std::optional<time_point> network::next_event_time() const {
  if (events_.empty()) return std::nullopt;
  return std::max(events_.begin()->first.first, now_);
}

void network::advance(time_point to) {
  TROUPE_ASSERT(to >= now_);
  while (!events_.empty() && events_.begin()->first.first <= to) {
    auto event = events_.extract(events_.begin());
    now_ = std::max(now_, event.key().first);
    pending& due = event.mapped();
    if (!nodes_.contains(due.node)) continue;
    auto sleep = paused_.find(due.node);
    if (sleep != paused_.end() && sleep->second > now_)
      at(sleep->second, due.node, std::move(due.action));
    else
      due.action();
  }
  now_ = to;
}

void network::at(time_point t, incarnation id, std::function<void()> action) {
  events_.emplace(std::pair(std::max(t, now_), sequence_++), pending{id, std::move(action)});
}

node* network::find(incarnation id) {
  auto entry = nodes_.find(id);
  return entry == nodes_.end() ? nullptr : entry->second;
}

std::optional<time_point> network::moves_at(incarnation reader, incarnation owner) const {
  owner = listening(owner);
  if (!nodes_.contains(owner) || cuts_.contains({reader, owner})) return std::nullopt;
  auto sleep = paused_.find(owner);
  return sleep == paused_.end() ? now_ : sleep->second;
}

std::vector<std::span<const std::byte>> network::targets(incarnation reader) const {
  auto entry = nodes_.find(reader);
  return entry == nodes_.end() ? std::vector<std::span<const std::byte>>{}
                               : entry->second->targets();
}

incarnation network::listening(incarnation id) const {
  if (TROUPE_PLANTED(incarnation_off))
    for (auto next = successors_.find(id); next != successors_.end(); next = successors_.find(id))
      id = next->second;
  return id;
}

void network::succeed(incarnation dead, incarnation next) {
  successors_[dead] = next;
  for (auto& [other, alive] : nodes_)
    after({}, other, [this, other = other, dead] {
      node* n = find(other);
      if (n == nullptr) return;
      if (TROUPE_PLANTED(incarnation_off))
        n->link_restored(dead);
      else
        n->peer_died(dead);
    });
}

void network::remove(incarnation id) {
  nodes_.erase(id);
  paused_.erase(id);
}

void network::kill(incarnation id, std::optional<std::chrono::nanoseconds> notice) {
  node* dead = find(id);
  if (dead == nullptr) return;
  dead->die();
  remove(id);
  if (!notice) return;
  for (auto& [other, alive] : nodes_)
    after(*notice, other, [this, other = other, id] {
      if (node* n = find(other)) n->peer_died(id);
    });
}

void network::pause(incarnation id, time_point until) {
  if (!nodes_.contains(id)) return;
  paused_[id] = std::max(until, paused_[id]);
}

void network::cut(incarnation reader, incarnation owner, bool is_cut) {
  if (is_cut) {
    cuts_.insert({reader, owner});
    return;
  }
  cuts_.erase({reader, owner});
  if (node* n = find(reader)) n->link_restored(owner);
}

}  // namespace troupe::transport::sim

namespace troupe::transport {

std::unique_ptr<sim_network> make_sim_network(std::uint64_t seed, time_point start) {
  return std::make_unique<sim::network>(seed, start);
}

}  // namespace troupe::transport
