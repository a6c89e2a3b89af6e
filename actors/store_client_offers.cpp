// The store client's connections to stores, which store a prompt belongs to, and what it offers them.
#include <algorithm>

#include "actors/store_client.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr auto tick_interval = std::chrono::milliseconds(20);
constexpr auto offer_timeout = std::chrono::milliseconds(5000);
constexpr std::size_t offers_limit = 8192;  // blocks that wait for a store
constexpr std::size_t offer_blocks_limit = 64;
constexpr std::size_t copies_limit = 4096;  // prompts

}  // namespace

void store_client_state::on_membership(const membership& m) {
  stores.update(m, [this](const member& n) {
    return n.info.kind == role::kv_store && n.info.kv_identity == node->info.kv_identity;
  });
  for (const auto& n : m.members)
    if (auto* s = stores.find(n.info.start)) {
      s->leaving = n.state == node_state::draining;
      s->readers = n.load.running;
    }
}

void store_client_state::on_lost(std::uint64_t start, const store& lost, const std::string& why) {
  spdlog::warn("store {} is lost: {}", lost.info.name, why);
  std::vector<key> affected;
  for (const auto& [id, f] : fetches) {
    if (f.store != start) continue;
    // Where only the link to it is lost it would hold their blocks' leases for as long as this node lives.
    if (lost.actor) self->send(lost.actor, release_request{id.first, id.second});
    if (!f.pulling) affected.push_back(id);  // a pull ends by itself
  }
  node->puller->disconnect(incarnation{start});
  update_ready();
  for (const auto& id : affected) end(id, "store_lost");
}

void store_client_state::update_ready() {
  node->metrics->store_connections.Set(static_cast<double>(stores.connected()));
  const bool any = stores.connected() > 0;
  node->store_ready = any;
  if (any == offering) return;
  offering = any;
  node->loop->post_completion(
      [any](engine::engine& e, engine::time_point) { e.offer_blocks(any); });
}

std::vector<store_place> store_client_state::order_of(const hash128_t& first_block) const {
  std::vector<store_place> all;
  for (const auto& [start, s] : stores)
    if (s.actor) all.push_back({s.info.name, start, s.readers + s.fetches});
  return store_order(first_block, std::move(all));
}

std::uint32_t store_client_state::copies_of(const hash128_t& first_block) const {
  const auto told = copies.find(first_block);
  return std::max(node->options.store_replicas, told == copies.end() ? 1u : told->second);
}

void store_client_state::learn_copies(const hash128_t& first_block, std::uint32_t told) {
  if (told <= node->options.store_replicas) {
    copies.erase(first_block);
    return;
  }
  if (copies.size() >= copies_limit) copies.clear();  // learned again with the next answers
  copies[first_block] = told;
}

void store_client_state::offer(const engine::events& e) {
  for (const auto& c : e.computed) {
    auto order = order_of(c.first);
    std::erase_if(order, [&](const store_place& s) { return stores.at(s.start).leaving; });
    const auto n = std::min<std::size_t>(order.size(), node->options.store_replicas);
    for (std::size_t i = 0; i < n; ++i) {
      auto& s = stores.at(order[i].start);
      if (s.offers.size() >= offers_limit) s.offers.pop_front();
      s.offers.push_back({c.hash.high,
                          c.hash.low,
                          c.parent.high,
                          c.parent.low,
                          c.tokens,
                          c.index,
                          c.prompt_tokens,
                          {c.block.block, c.block.generation, c.block.valid_tokens}});
    }
  }
  for (auto& [start, s] : stores) send_offer(s);
}

void store_client_state::send_offer(store& s) {
  if (s.offer_number != 0 || s.offers.empty() || !s.actor) return;
  s.offer_number = next_offer++;
  s.offer_deadline = self->clock().now() + offer_timeout;
  store_offer m{node->info.start, s.offer_number, node->info.kv_identity, {}};
  while (!s.offers.empty() && m.blocks.size() < offer_blocks_limit) {
    m.blocks.push_back(std::move(s.offers.front()));
    s.offers.pop_front();
  }
  self->send(s.actor, std::move(m));
  watch();
}

// Ticks only while there is something to wait for.
void store_client_state::watch() {
  if (std::exchange(watching, true)) return;
  self->delayed_send(self, tick_interval, caf::tick_atom_v);
}

void store_client_state::tick() {
  watching = false;
  const auto now = self->clock().now();
  std::vector<std::pair<key, const char*>> late;
  for (auto& [id, f] : fetches)
    if (now > f.deadline) late.emplace_back(id, f.answered ? "stalled" : "silent");
  for (const auto& [id, outcome] : late) end(id, outcome);
  bool offered = false;
  for (auto& [start, s] : stores) {
    if (s.offer_number != 0 && now > s.offer_deadline) {
      s.offer_number = 0;  // forgotten, as the blocks are by now
      send_offer(s);
    }
    offered = offered || s.offer_number != 0;
  }
  if (!fetches.empty() || offered) watch();
}

}  // namespace troupe::actors
