// What a store gives to others: all that it has when it leaves, and to one that comes the share that is now that one's. It
// offers as a node would, the others pull; a block is offered to the stores that own its prompt, which say what they had,
// took, or have no room for. The most worth goes first: time is short for one that leaves. What is in its file only stays
// there, to be found when the store comes back.
#include <set>
#include <unordered_map>

#include "actors/kv_store.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr std::size_t of_one_offer = 64;  // blocks
constexpr auto offer_timeout = std::chrono::seconds(5);
// Of one that leaves: long enough for some GB, and short beside what supervisors wait before they kill.
constexpr auto longest_leave = std::chrono::seconds(10);
// A store that has just come may not know this one yet, and refuses everything.
constexpr std::uint32_t most_refusals = 8;  // in a row

}  // namespace

// The stores that should have a prompt, as nodes choose them, of those that stay.
std::vector<std::uint64_t> kv_store_state::owners_of(const hash128_t& first, bool with_me) const {
  std::vector<store_place> all;
  if (with_me) all.push_back({context->node->info.name, context->node->info.start, 0});
  for (const auto& [start, s] : other_stores)
    if (s.takes) all.push_back({s.info.name, start, 0});
  std::vector<std::uint64_t> owners;
  for (const auto& place : store_order(first, std::move(all)))
    if (owners.size() < context->node->options.store_replicas) owners.push_back(place.start);
  return owners;
}

// To each owner but this store what it should have; `only`: to nobody else.
void kv_store_state::plan_handovers(bool with_me, std::optional<std::uint64_t> only) {
  std::unordered_map<hash128_t, std::vector<std::uint64_t>> owners;  // by the prompt's first block
  std::unordered_map<hash128_t, hash128_t> first_of;
  for (const block_id b : store->by_worth()) {
    const auto& k = store->key(b);
    const auto before = first_of.find(k.parent);
    if (k.index > 0 && before == first_of.end()) continue;  // nobody could reach it
    const hash128_t first = k.index == 0 ? k.hash : before->second;
    first_of[k.hash] = first;
    auto known = owners.find(first);
    if (known == owners.end()) known = owners.emplace(first, owners_of(first, with_me)).first;
    const auto pinned = store->pinned_until(b);
    for (const auto to : known->second) {
      if (to == context->node->info.start || (only && to != *only)) continue;
      handovers[to].waiting.push_back(k.hash);
      if (pinned) handovers[to].pins.emplace_back(k.hash, *pinned);
    }
  }
}

// In the background: an offer a tick.
void kv_store_state::share_with(std::uint64_t newcomer) {
  if (context->node->state != node_state::draining) plan_handovers(true, newcomer);
}

void kv_store_state::leave(const drain_request& how) {
  context->node->restart = how.restart;
  context->node->state = node_state::draining;
}

// Leaving begins with the tick that sees this node drain, whoever drains it; until it has ended, the node is busy.
bool kv_store_state::busy_leaving() {
  if (context->node->state != node_state::draining) return true;
  const auto now = context->node->now();
  if (leaves_by == time_point{}) {
    leaves_by = now + longest_leave;
    for (auto& [to, h] : handovers) store->release(h.lease);
    handovers.clear();
    plan_handovers(false, std::nullopt);
    for (const auto& [to, h] : handovers)
      spdlog::info("this store leaves: {} gets {} blocks", other_stores.at(to).info.name,
                   h.waiting.size());
    hand_on();
  }
  if (now >= leaves_by)
    while (!handovers.empty()) give_up(handovers.begin()->first);
  return !handovers.empty();
}

void kv_store_state::hand_on() {
  const auto now = context->node->now();
  std::vector<std::uint64_t> all;
  for (const auto& [to, h] : handovers) all.push_back(to);
  for (const auto to : all) {
    handover& h = handovers.at(to);
    const auto s = other_stores.find(to);
    if (s == other_stores.end() || !s->second.takes) {
      give_up(to);
      continue;
    }
    if (h.number != 0 && now - h.began > offer_timeout) {
      context->metrics->handed_on(0, 0, 0, h.offered);
      store->release(h.lease);
      h.number = 0;
    }
    if (h.number == 0) offer_next(to);
  }
}

void kv_store_state::offer_next(std::uint64_t to) {
  handover& h = handovers.at(to);
  other_store& s = other_stores.at(to);
  connect_store(s);
  if (!s.actor) return;  // with the next tick
  h.blocks.clear();
  for (; !h.waiting.empty() && h.blocks.size() < of_one_offer; h.waiting.pop_front())
    if (const auto b = store->present(h.waiting.front())) h.blocks.push_back(*b);
  if (h.blocks.empty()) {
    pass_pins(s, h.pins);
    handovers.erase(to);
    return;
  }
  h.number = next_copy++;
  h.lease = next_lease++;
  h.began = context->node->now();
  h.offered = static_cast<std::uint32_t>(h.blocks.size());
  store->lease(h.lease, h.blocks, h.began);
  self->send(s.actor, offer_of(h.number, h.blocks));
}

// False: the offer was none of these.
bool kv_store_state::on_handed_on(const store_offer_done& m) {
  const auto it = std::ranges::find_if(
      handovers, [&](const auto& h) { return h.second.number == m.number && m.number != 0; });
  if (it == handovers.end()) return false;
  handover& h = it->second;
  store->release(h.lease);
  h.number = 0;
  const std::uint32_t kept = std::min(h.offered, m.stored + m.had);
  const bool again = kept == 0 && ++h.refusals < most_refusals;
  if (again) {
    for (auto b = h.blocks.rbegin(); b != h.blocks.rend(); ++b)
      h.waiting.push_front(store->key(*b).hash);
    return true;  // with the next tick
  }
  if (kept > 0) h.refusals = 0;
  context->metrics->handed_on(m.stored, m.had, h.offered - kept, 0);
  if (context->node->state == node_state::draining) offer_next(it->first);
  return true;
}

// Of a prompt only its last block is named: what is before it is pinned along.
void kv_store_state::pass_pins(other_store& to, const pin_list& pins) {
  std::set<hash128_t> followed;
  for (const auto& [hash, until] : pins)
    if (const auto* k = store->find_key(hash)) followed.insert(k->parent);
  const auto now = context->node->now();
  for (const auto& [hash, until] : pins) {
    if (followed.contains(hash) || until <= now) continue;
    pin_request r;
    r.hash_high = hash.high;
    r.hash_low = hash.low;
    const auto left = std::chrono::ceil<std::chrono::seconds>(until - now).count();
    r.ttl_s = until == time_point::max() ? 0 : static_cast<std::uint64_t>(left);
    self->request(to.actor, offer_timeout, r).then([](const pin_reply&) {}, [](caf::error&) {});
  }
}

void kv_store_state::give_up(std::uint64_t to) {
  const handover h = std::move(handovers.at(to));
  handovers.erase(to);
  if (h.number != 0) store->release(h.lease);
  context->metrics->handed_on(0, 0, 0, h.waiting.size() + (h.number != 0 ? h.offered : 0));
}

}  // namespace troupe::actors
