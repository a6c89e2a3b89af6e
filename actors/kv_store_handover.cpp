// What a store gives to others: all that it has when it leaves, and to one that comes the share that is now that one's. It
// offers as a node would, the others pull; a block is offered to the stores that own its prompt, which say what they had,
// took, or have no room for. The most worth goes first: time is short for one that leaves. Then comes what is in its file
// only (kv_store_handover_disk.cpp).
#include <algorithm>
#include <set>

#include "actors/kv_store.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr auto offer_timeout = std::chrono::seconds(5);
// Of one that leaves: long enough for some GB, and short beside what supervisors wait before they kill.
constexpr auto usual_leave = std::chrono::seconds(10);
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

std::vector<kv_store_state::owned_block> kv_store_state::blocks_in_memory() const {
  std::vector<owned_block> all;
  for (const block_id b : store->by_worth())
    all.push_back({&store->key(b), store->pinned_until(b)});
  return all;
}

// Of each block that can be reached, its prompt's first block.
std::unordered_map<hash128_t, hash128_t> kv_store_state::first_blocks(
    std::vector<owned_block> blocks) {
  std::ranges::sort(blocks, {}, [](const owned_block& b) { return b.key->index; });
  std::unordered_map<hash128_t, hash128_t> first_of;
  for (const auto& [k, pinned] : blocks) {
    const auto before = first_of.find(k->parent);
    if (k->index == 0)
      first_of[k->hash] = k->hash;
    else if (before != first_of.end())
      first_of[k->hash] = hash128_t(before->second);
  }
  return first_of;
}

// To each owner but this store what it should have; `only`: to nobody else.
void kv_store_state::plan_handovers(const std::vector<owned_block>& blocks, bool with_me,
                                    std::optional<std::uint64_t> only) {
  std::unordered_map<hash128_t, std::vector<std::uint64_t>> owners;  // by the prompt's first block
  const auto first_of = first_blocks(blocks);
  for (const auto& [k, pinned] : blocks) {
    const auto first = first_of.find(k->hash);
    if (first == first_of.end()) continue;
    auto known = owners.find(first->second);
    if (known == owners.end())
      known = owners.emplace(first->second, owners_of(first->second, with_me)).first;
    for (const auto to : known->second) {
      if (to == context->node->info.start || (only && to != *only)) continue;
      handovers[to].waiting.push_back(k->hash);
      if (pinned) handovers[to].pins.emplace_back(k->hash, *pinned);
    }
  }
}

// In the background: an offer a tick.
void kv_store_state::share_with(std::uint64_t newcomer) {
  if (context->node->state != node_state::draining)
    plan_handovers(blocks_in_memory(), true, newcomer);
}

void kv_store_state::leave(const drain_request& how) {
  context->node->restart = how.restart;
  leave_time = std::chrono::milliseconds(how.timeout_ms);
  context->node->state = node_state::draining;
}

// Leaving begins with the tick that sees this node drain, whoever drains it; until it has ended, the node is busy.
bool kv_store_state::busy_leaving() {
  if (context->node->state != node_state::draining) return true;
  const auto now = context->node->now();
  if (leaves_by == time_point{}) {
    leaves_by = now + std::max<std::chrono::milliseconds>(usual_leave, leave_time);
    for (auto& [to, h] : handovers) end_offer(h, false);
    handovers.clear();
    plan_handovers(blocks_in_memory(), false, std::nullopt);
    for (const auto& [to, h] : handovers)
      spdlog::info("this store leaves: {} gets {} blocks", other_stores.at(to).info.name,
                   h.waiting.size());
    hand_on();
  }
  if (handovers.empty() && now < leaves_by) hand_on_file();
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
      end_offer(h, false);
    }
    if (h.number == 0 && h.reading == 0) offer_next(to);
  }
}

// What is not in memory any more was given up for other blocks, or is read from the file first.
void kv_store_state::offer_next(std::uint64_t to) {
  handover& h = handovers.at(to);
  const auto s = other_stores.find(to);
  if (s == other_stores.end()) return;  // given up with the next tick
  connect_store(s->second);
  if (!s->second.actor) return;  // with the next tick
  h.blocks.clear();
  std::vector<engine::record_id> on_disk;
  const std::size_t most = blocks_of_one_offer();
  for (; !h.waiting.empty() && h.blocks.size() + on_disk.size() < most; h.waiting.pop_front()) {
    if (const auto b = store->present(h.waiting.front()))
      h.blocks.push_back(*b);
    else if (const auto r =
                 file_is_planned ? context->file->present(h.waiting.front()) : std::nullopt)
      on_disk.push_back(*r);
  }
  if (h.blocks.empty() && on_disk.empty()) {
    pass_pins(s->second, h.pins);
    handovers.erase(to);
    return;
  }
  h.lease = next_lease++;
  store->lease(h.lease, h.blocks, context->node->now());
  if (on_disk.empty())
    send_offer(to);
  else
    read_for(to, on_disk);
}

void kv_store_state::send_offer(std::uint64_t to) {
  handover& h = handovers.at(to);
  h.number = next_copy++;
  h.began = context->node->now();
  h.offered = static_cast<std::uint32_t>(h.blocks.size());
  self->send(other_stores.at(to).actor, offer_of(h.number, h.blocks));
}

void kv_store_state::end_offer(handover& h, bool keep) {
  store->release(h.lease);
  h.number = 0;
  if (!keep)
    for (const block_id b : h.from_file) store->drop(b);
  h.from_file.clear();
}

// False: the offer was none of these.
bool kv_store_state::on_handed_on(const store_offer_done& m) {
  const auto it = std::ranges::find_if(
      handovers, [&](const auto& h) { return h.second.number == m.number && m.number != 0; });
  if (it == handovers.end()) return false;
  handover& h = it->second;
  const std::uint32_t kept = std::min(h.offered, m.stored + m.had);
  const bool again = kept == 0 && ++h.refusals < most_refusals;
  end_offer(h, again);
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
    if (const auto* k = find_key(hash)) followed.insert(k->parent);
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
  handover h = std::move(handovers.at(to));
  handovers.erase(to);
  const bool under_way = h.number != 0 || h.reading != 0;
  if (under_way) end_offer(h, false);
  context->metrics->handed_on(0, 0, 0, h.waiting.size() + (under_way ? h.offered : 0));
}

}  // namespace troupe::actors
