#include "actors/kv_store.hpp"

#include <algorithm>

#include "base/log.hpp"
#include "engine/prefix_index.hpp"

namespace troupe::actors {
namespace {

constexpr auto tick_interval = std::chrono::milliseconds(250);
constexpr std::size_t longest_offer = 256;  // blocks of one message

}  // namespace

transport::block_tag kv_store_state::tag(block_id b) const {
  return {incarnation{context->node->info.start}, store->generation(b),
          engine::fence_layout(context->kv_identity), context->options.block_tokens};
}

// -- offers --------------------------------------------------------------------------------------------------------------

void kv_store_state::take(const store_offer& m) {
  auto from = caf::actor_cast<store_offerer>(self->current_sender());
  if (!from) return;
  const auto& node = *context->node;
  const bool welcome = m.kv_identity == node.info.kv_identity && peers.contains(m.node) &&
                       m.blocks.size() <= longest_offer && node.state != node_state::draining;
  offer o{m.number, m.node, from, {}, 0};
  engine::pull_plan plan;
  for (const auto& b : m.blocks) {
    if (!welcome) break;
    context->metrics->offered(1);
    if (b.tokens.size() != context->options.block_tokens ||
        b.block.valid_tokens != context->options.block_tokens)
      continue;
    const hash128_t parent{b.parent_high, b.parent_low}, hash{b.hash_high, b.hash_low};
    if (engine::chain_hash(parent, b.tokens) != hash) continue;  // not what it says it is
    o.had += store->present(hash).has_value();
    auto slot = store->reserve({hash, parent, b.tokens, b.index, b.prompt_tokens}, node.now());
    if (!slot) continue;
    transport::invalidate(bytes(*slot));
    plan.pieces.push_back(
        {b.block.block, *slot, {b.block.block, b.block.generation, b.block.valid_tokens}});
    o.blocks.push_back(*slot);
  }
  if (plan.pieces.empty()) return self->send(from, store_offer_done{m.number, 0, o.had});
  const auto id = next_pull++;
  offers.emplace(id, std::move(o));
  context->node->puller->pull(
      incarnation{m.node}, std::move(plan), node.now() + node.options.pull_timeout,
      [me = kv_store_actor(self), id](pull_outcome&& out) {
        caf::anon_send(me, store_pulled{id, 0, std::move(out.ok), out.bytes, out.duration,
                                        std::move(out.failure)});
      });
}

void kv_store_state::on_pulled(const store_pulled& m) {
  auto it = offers.find(m.id);
  if (it == offers.end()) return;
  const offer o = std::move(it->second);
  offers.erase(it);
  const auto now = context->node->now();
  std::size_t stored = 0;
  for (std::size_t i = 0; i < o.blocks.size(); ++i) {
    const bool ok = i < m.ok.size() && m.ok[i];
    if (ok) transport::seal(bytes(o.blocks[i]), tag(o.blocks[i]));
    store->filled(o.blocks[i], ok, now);
    stored += ok;
    if (ok) save(o.blocks[i]);
  }
  context->metrics->stored(stored, o.blocks.size() - stored, stored * context->sealed_bytes);
  self->send(o.from, store_offer_done{o.number, static_cast<std::uint32_t>(stored), o.had});
}

// -- readers -------------------------------------------------------------------------------------------------------------

void kv_store_state::look_up(const store_lookup& m) {
  auto from = caf::actor_cast<store_reader>(self->current_sender());
  if (!from) return;
  const auto& node = *context->node;
  const std::uint32_t size = context->options.block_tokens;
  if (m.kv_identity != node.info.kv_identity || m.tokens.size() % size != 0)
    return self->send(from, store_found{m.id, m.try_number, m.first_block, {}, true, 1});
  if (watched.insert(from.address()).second) self->monitor(from);

  const auto now = node.now();
  const std::span<const token_id> tokens(m.tokens);
  const hash128_t root{m.root_high, m.root_low};
  std::vector<hash128_t> chain;
  for (std::size_t at = 0; at < tokens.size(); at += size)
    chain.push_back(
        engine::chain_hash(chain.empty() ? root : chain.back(), tokens.subspan(at, size)));
  store->requested(chain, m.tokens.size(), now);
  // What is in memory is held first, so that room for what is on the disk is not made at its expense.
  std::vector<std::optional<block_id>> found;
  std::vector<engine::record_id> on_disk;
  std::vector<block_id> in_memory;
  for (std::size_t i = m.first_block; i < chain.size(); ++i) {
    const auto part = tokens.subspan(i * size, size);
    const auto& parent = i == 0 ? root : chain[i - 1];
    if (auto b = store->find(chain[i], parent, part)) {
      found.push_back(b);
      in_memory.push_back(*b);
    } else if (auto r = disk ? context->file->find(chain[i], parent, part) : std::nullopt) {
      found.emplace_back();
      on_disk.push_back(*r);
    } else {
      break;
    }
  }
  const std::uint64_t lease = next_lease++;
  if (!found.empty()) {
    const reader key{from.address(), m.id};
    if (auto earlier = leases.find(key); earlier != leases.end()) end_lease(earlier);
    leases[key] = {lease, m.try_number};
    store->lease(lease, in_memory, now);
  }
  const std::uint64_t number = next_answer++;
  answer a{from, m.id, lease, m.try_number, m.first_block, 1, {}, {}, 0, 0, 0, false};
  if (!chain.empty()) a.copies = heat_up(chain.front(), in_memory);
  std::size_t next_record = 0;
  for (const auto& b : found) {
    auto block = b;
    if (!block) block = store->reserve(context->file->key(on_disk[next_record]), now, true);
    if (!block) break;  // no room for more
    next_record += b ? 0 : 1;
    a.blocks.push_back(*block);
    a.ready.push_back(b.has_value());
  }
  on_disk.resize(next_record);
  a.limit = a.blocks.size();
  const std::size_t asked = chain.size() - std::min<std::size_t>(chain.size(), m.first_block);
  const std::size_t from_memory = a.blocks.size() - on_disk.size();
  context->metrics->looked_up(asked * size, from_memory * size, on_disk.size() * size,
                              context->sealed_bytes / size);
  answers.emplace(number, std::move(a));
  if (!on_disk.empty()) load(number, on_disk);
  send_ready(number);
}

// The blocks that are ready, in order; the last message once nothing more can come.
void kv_store_state::send_ready(std::uint64_t number) {
  auto it = answers.find(number);
  if (it == answers.end()) return;
  answer& a = it->second;
  store_found m{a.request, a.try_number, static_cast<std::uint32_t>(a.first + a.sent),
                {},        false,        a.copies};
  for (; a.sent < a.limit && a.ready[a.sent]; ++a.sent) {
    const block_id b = a.blocks[a.sent];
    m.blocks.push_back({b, store->generation(b), context->options.block_tokens});
  }
  m.last = a.sent >= a.limit;
  if (!a.told_last && (m.last || !m.blocks.empty())) {
    a.told_last = m.last;
    self->send(a.to, std::move(m));
  }
  if (a.told_last && a.loading == 0) answers.erase(it);
}

// A reader may still end an earlier try when it has begun the next one.
void kv_store_state::release(const caf::actor_addr& actor, const release_request& r) {
  const auto it = leases.find({actor, r.id});
  if (it != leases.end() && it->second.try_number == r.try_number) end_lease(it);
}

void kv_store_state::end_lease(std::map<reader, held>::iterator at) {
  store->release(at->second.lease);
  leases.erase(at);
}

// -- upkeep --------------------------------------------------------------------------------------------------------------

void kv_store_state::on_membership(const membership& m) {
  std::set<std::uint64_t> alive;
  std::vector<std::uint64_t> newcomers;
  for (const auto& n : m.members) {
    const bool computes = n.info.kind == role::prefill || n.info.kind == role::decode;
    const bool copies_from = n.info.kind == role::kv_store &&
                             n.info.start != context->node->info.start &&
                             n.info.kv_identity == context->node->info.kv_identity;
    if ((!computes && !copies_from) || n.state == node_state::lost) continue;
    if (copies_from && n.state == node_state::ready) {
      if (!other_stores.contains(n.info.start)) newcomers.push_back(n.info.start);
      other_stores[n.info.start].info = n.info;
    }
    if (copies_from && other_stores.contains(n.info.start))
      other_stores[n.info.start].takes = n.state == node_state::ready;
    alive.insert(n.info.start);
    if (peers.contains(n.info.start) || n.state != node_state::ready) continue;
    auto linked =
        context->node->puller->connect(incarnation{n.info.start}, n.info.transport_address);
    if (linked) peers.insert(n.info.start);
  }
  for (auto it = peers.begin(); it != peers.end();) {
    if (alive.contains(*it)) {
      ++it;
      continue;
    }
    context->node->puller->disconnect(incarnation{*it});
    it = peers.erase(it);
  }
  std::erase_if(other_stores, [&](const auto& s) {
    if (alive.contains(s.first)) return false;
    if (s.second.actor) self->demonitor(s.second.actor.address());
    return true;
  });
  for (const auto start : newcomers) share_with(start);
}

void kv_store_state::tick() {
  self->delayed_send(self, tick_interval, caf::tick_atom_v);
  const auto now = context->node->now();
  end_leases(store->expire(now));
  if (context->file) context->file->expire(now);
  const auto s = store->stats();
  context->metrics->update(s, context->sealed_bytes, store->oldest_use(now));
  if (disk) context->metrics->update_disk(context->file->stats(), context->file->record_bytes());
  context->metrics->readers(leases.size());
  hand_on();
  context->node->requests = static_cast<std::uint32_t>(s.leased + offers.size() + busy_leaving());
}

// Of readers whose release was lost with its link, and of copies that were never answered.
void kv_store_state::end_leases(const std::vector<std::uint64_t>& ended) {
  const std::set<std::uint64_t> gone(ended.begin(), ended.end());
  context->metrics->leases_expired(
      std::erase_if(leases, [&](const auto& l) { return gone.contains(l.second.lease); }));
  std::erase_if(copies, [&](const auto& c) {
    return gone.contains(c.second.lease) || !other_stores.contains(c.second.to);
  });
}

std::uint64_t kv_store_state::clear() {
  std::uint64_t of_file_alone = 0;
  if (disk) {
    auto erased = context->file->clear();
    of_file_alone = static_cast<std::uint64_t>(std::ranges::count_if(erased, [&](const auto r) {
      return store->find_key(context->file->key(r).hash) == nullptr;
    }));
    disk->erase(std::move(erased));
  }
  return of_file_alone + store->clear();
}

std::string kv_store_state::metrics_text() {
  context->metrics->update(store->stats(), context->sealed_bytes,
                           store->oldest_use(context->node->now()));
  if (disk) context->metrics->update_disk(context->file->stats(), context->file->record_bytes());
  context->metrics->update_fabric(context->node->puller->stats());
  return context->metrics->text();
}

kv_store_actor::behavior_type kv_store_state::make_behavior() {
  self->set_down_handler([this](caf::down_msg& down) {
    on_store_down(down.source);
    if (watched.erase(down.source) == 0) return;
    for (auto next = leases.begin(); next != leases.end();) {
      const auto it = next++;
      if (it->first.actor == down.source) end_lease(it);
    }
  });
  open_disk();
  tick();
  return {
      [this](const store_offer& m) { take(m); },
      [this](const store_lookup& m) { look_up(m); },
      [this](const release_request& m) {
        release(caf::actor_cast<caf::actor_addr>(self->current_sender()), m);
      },
      [this](const clear_request&) { return clear(); },
      [this](const pin_request& r) { return pin(r); },
      [this](const prefix_events_request& r) {
        if (auto to = caf::actor_cast<prefix_listener>(self->current_sender()))
          self->send(to, context->node->changes(r));
      },
      [this](const store_offer_done& m) {
        if (!on_handed_on(m)) on_copied(m);
      },
      [this](const membership& m) { on_membership(m); },
      [this](const metrics_request&) { return metrics_text(); },
      [this](const drain_request& d) { leave(d); },
      [this](const store_pulled& m) { on_pulled(m); },
      [this](const blocks_loaded& m) { on_disk(m); },
      [this](const link_lost& l) { peers.erase(l.start); },
      [this](caf::tick_atom) { tick(); },
  };
}

kv_store_actor::behavior_type kv_store(kv_store_actor::stateful_pointer<kv_store_state> self,
                                       std::shared_ptr<kv_store_context> context) {
  self->state.store = std::make_unique<engine::block_store>(context->options);
  self->state.context = std::move(context);
  return self->state.make_behavior();
}

}  // namespace troupe::actors
