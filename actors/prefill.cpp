#include "actors/prefill.hpp"

#include "actors/store_client.hpp"
#include "actors/wire.hpp"
#include "base/log.hpp"

namespace troupe::actors {

void prefill_state::refuse(std::uint64_t id, std::uint32_t try_number, const error& why) {
  auto it = entries.find(id);
  if (it == entries.end() || it->second.try_number != try_number) return;
  self->send(it->second.reader, prefill_failed{id, try_number, why.code, why.detail});
  entries.erase(it);
  node->requests = static_cast<std::uint32_t>(entries.size());
}

void prefill_state::prefill(const prefill_request& r) {
  auto reader = caf::actor_cast<prefill_reader>(self->current_sender());
  if (!reader) return;
  if (entries.count(r.id) != 0) end(r.id, true);
  if (readers.insert(reader.address()).second) self->monitor(reader);
  entries.insert_or_assign(r.id, entry{r.try_number, reader});
  node->requests = static_cast<std::uint32_t>(entries.size());

  if (node->state == node_state::draining)
    return refuse(r.id, r.try_number, {ec::draining, node->info.name + " is draining"});
  if (r.reader_identity != node->info.kv_identity)
    return refuse(r.id, r.try_number,
                  {ec::identity_mismatch,
                   "the reader's KV identity is " + r.reader_identity + ", " + node->info.name +
                       "'s is " + node->info.kv_identity + " (" + node->info.identity_text + ")"});
  auto posted = node->loop->post(
      [me = prefill_actor(self), services = node, request = to_engine(r, node->now())](
          engine::engine& e, engine::time_point now) {
        if (auto added = add_by_store(services, e, request, now); !added)
          caf::anon_send(
              me, request_refused{raw(request.id), request.try_number, false, added.error()});
      });
  if (!posted) refuse(r.id, r.try_number, posted.error());
}

void prefill_state::end(std::uint64_t id, bool canceled) {
  auto it = entries.find(id);
  if (it == entries.end()) return;
  entries.erase(it);
  node->requests = static_cast<std::uint32_t>(entries.size());
  node->loop->post_completion([id, canceled](engine::engine& e, engine::time_point now) {
    if (canceled) e.cancel(request_id{id}, now);
    e.release(request_id{id}, now);
  });
}

void prefill_state::on_events(const engine::events& e) {
  auto find = [this](request_id id, attempt try_number) -> entry* {
    auto it = entries.find(raw(id));
    return it == entries.end() || it->second.try_number != try_number ? nullptr : &it->second;
  };
  // Tokens first: a reader that has every block then also has the first token.
  for (const auto& t : e.tokens) {
    auto* request = find(t.id, t.try_number);
    if (request == nullptr || t.tokens.empty()) continue;
    self->send(request->reader, first_token{raw(t.id), t.try_number, to_wire(t.tokens.front())});
  }
  for (const auto& b : e.blocks_ready) {
    auto* request = find(b.id, b.try_number);
    if (request == nullptr) continue;
    blocks_ready m{raw(b.id), b.try_number, b.first_block, {}, b.last};
    for (const auto& d : b.blocks) m.blocks.push_back({d.block, d.generation, d.valid_tokens});
    self->send(request->reader, std::move(m));
  }
  for (const auto& f : e.finished) {
    auto* request = find(f.id, f.try_number);
    if (request == nullptr) continue;
    if (f.reason == engine::finish_reason::error || f.reason == engine::finish_reason::abort)
      refuse(raw(f.id), f.try_number, f.failure);
    else
      entries.erase(raw(f.id));
  }
  for (const auto& l : e.leases_expired) {
    spdlog::warn("request {:x}: no reader released its blocks in time", raw(l.id));
    if (find(l.id, l.try_number) != nullptr) entries.erase(raw(l.id));
  }
  node->requests = static_cast<std::uint32_t>(entries.size());
}

prefill_actor::behavior_type prefill_state::make_behavior() {
  self->set_down_handler([this](caf::down_msg& down) {
    if (readers.erase(down.source) == 0) return;
    std::vector<std::uint64_t> orphans;
    for (auto& [id, e] : entries)
      if (e.reader.address() == down.source) orphans.push_back(id);
    for (auto id : orphans) end(id, true);
  });
  return {
      [this](const prefill_request& r) { prefill(r); },
      // A reader that gives up early releases too: what is not computed yet is then not computed at all.
      [this](const release_request& r) {
        auto it = entries.find(r.id);
        if (it != entries.end() && it->second.try_number == r.try_number) end(r.id, true);
      },
      [this](const metrics_request&) { return node->metrics_text(); },
      [this](const prefix_events_request& r) {
        if (auto to = caf::actor_cast<prefix_listener>(self->current_sender()))
          self->send(to, node->changes(r));
      },
      [this](const drain_request& d) {
        node->restart = d.restart;
        node->state = node_state::draining;
      },
      [this](const engine_happened& h) { on_events(*h.events); },
      [this](const request_refused& r) { refuse(r.id, r.try_number, r.failure); },
  };
}

prefill_actor::behavior_type prefill(prefill_actor::stateful_pointer<prefill_state> self,
                                     std::shared_ptr<node_services> node) {
  self->state.node = std::move(node);
  return self->state.make_behavior();
}

}  // namespace troupe::actors
