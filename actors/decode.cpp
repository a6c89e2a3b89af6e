#include "actors/decode.hpp"

#include "actors/store_client.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr auto tick_interval = std::chrono::milliseconds(250);

}  // namespace

void decode_state::post(std::uint64_t id, engine_driver::command c) {
  if (auto posted = node->loop->post(std::move(c)); !posted) {
    auto it = entries.find(id);
    if (it == entries.end()) return;
    cancel_in_engine(id);  // what it has of this request would wait for what was not posted
    on_refused({id, it->second.try_number, false, posted.error()});
  }
}

// Never refused: a request that ends for everybody else must not live on in the engine.
void decode_state::cancel_in_engine(std::uint64_t id) {
  node->loop->post_completion(
      [id](engine::engine& eng, engine::time_point now) { eng.cancel(request_id{id}, now); });
}

void decode_state::generate(const generate_request& r) {
  auto sink = caf::actor_cast<stream_sink_actor>(self->current_sender());
  if (!sink) return;
  if (entries.count(r.id) != 0) cancel(r.id);
  if (sinks.insert(sink.address()).second) self->monitor(sink);

  entry e;
  e.try_number = r.try_number;
  e.sink = sink;
  e.trace.decode_node = node->info.name;
  e.trace.route_reason = r.route_reason;
  if (node->state == node_state::draining) {
    entries.insert_or_assign(r.id, std::move(e));
    return on_refused(
        {r.id, r.try_number, false, error{ec::draining, node->info.name + " is draining"}});
  }
  // Until the prefill node's memory is open, computing here is sooner.
  const bool asks_prefill =
      r.has_prefill && !node->puller->would_wait_for(incarnation{r.prefill.start});
  if (asks_prefill) {
    remote_part part;
    part.peer = r.prefill.start;
    part.message = {r.id,       r.try_number, r.prompt,     r.output,
                    r.sampling, r.cache_salt, r.timeout_ms, node->info.kv_identity};
    part.last_progress = self->clock().now();
    e.remote = std::move(part);
    e.trace.prefill_node = r.prefill.name;
  }
  entries.insert_or_assign(r.id, std::move(e));
  node->requests = static_cast<std::uint32_t>(entries.size());

  // The prefill node starts while the engine reserves: blocks announced early wait in the engine's queue behind it.
  if (r.has_prefill) peers.connect(r.prefill);
  if (asks_prefill) ask_prefill(r.id);
  auto request = to_engine(r, node->now());
  // Connecting may have failed at once, and then the request is a local one.
  const bool remote = entries.count(r.id) != 0 && entries.at(r.id).remote.has_value();
  // Its draft hears of it only once the engine has it, and so always of its end.
  draft_begin drafted{r.id, r.try_number, nullptr};
  if (node->draft_client && node->drafts_ready)
    drafted.request = std::make_shared<const generate_request>(r);
  post(r.id, [me = decode_actor(self), services = node, request, remote, drafted](
                 engine::engine& eng, engine::time_point now) {
    const request_admitted admitted{raw(request.id), request.try_number};
    auto admit = [&] {
      if (drafted.request)
        caf::anon_send(caf::actor_cast<draft_client_actor>(services->draft_client), drafted);
      caf::anon_send(me, admitted);
    };
    error why;
    if (remote) {
      auto reserved = eng.add_remote(request, now);
      if (reserved) return admit();
      why = reserved.error();
      caf::anon_send(me, request_refused{admitted.id, admitted.try_number, true, why});
      if (why.code != ec::out_of_memory)
        return caf::anon_send(me, request_refused{admitted.id, admitted.try_number, false, why});
    }
    if (auto added = add_by_store(services, eng, request, now); added)
      admit();
    else
      caf::anon_send(me, request_refused{admitted.id, admitted.try_number, false, added.error()});
  });
}

void decode_state::cancel(std::uint64_t id) {
  if (entries.count(id) == 0) return;
  end_remote(id, false, "canceled");
  cancel_in_engine(id);
}

void decode_state::on_refused(const request_refused& r) {
  auto it = entries.find(r.id);
  if (it == entries.end() || it->second.try_number != r.try_number) return;
  if (r.remote) return end_remote(r.id, false, to_string(r.failure));
  finish(r.id, failed_with(r.id, r.try_number, r.failure));
}

void decode_state::finish(std::uint64_t id, generation_finished message) {
  auto it = entries.find(id);
  if (it == entries.end()) return;
  end_remote(id, false, "finished");
  const auto& t = it->second.trace;
  message.decode_node = t.decode_node;
  message.prefill_node = t.blocks_pulled > 0 ? t.prefill_node : std::string();
  message.route_reason = t.route_reason;
  message.transfer_path = t.transfer_path;
  message.blocks_pulled = t.blocks_pulled;
  self->send(it->second.sink, std::move(message));
  entries.erase(it);
  node->requests = static_cast<std::uint32_t>(entries.size());
}

void decode_state::on_events(const engine::events& e) {
  auto stream = [this](request_id id, attempt try_number, bool of_prompt,
                       const std::vector<engine::token_output>& tokens) {
    auto it = entries.find(raw(id));
    if (it == entries.end() || it->second.try_number != try_number) return;
    generation_tokens m{raw(id), try_number, of_prompt, {}};
    for (const auto& t : tokens) m.tokens.push_back(to_wire(t));
    self->send(it->second.sink, std::move(m));
  };
  for (const auto& t : e.prompt_logprobs) stream(t.id, t.try_number, true, t.tokens);
  for (const auto& t : e.tokens) stream(t.id, t.try_number, false, t.tokens);
  for (const auto& f : e.finished) {
    auto it = entries.find(raw(f.id));
    if (it != entries.end() && it->second.try_number == f.try_number) finish(raw(f.id), to_wire(f));
  }
}

void decode_state::on_down(const caf::down_msg& down) {
  if (peers.down(down.source) || sinks.erase(down.source) == 0) return;
  std::vector<std::uint64_t> orphans;
  for (auto& [id, e] : entries)
    if (e.sink.address() == down.source) orphans.push_back(id);
  for (auto id : orphans) cancel(id);
}

void decode_state::drain(const drain_request& d) {
  node->restart = d.restart;
  node->state = node_state::draining;
  if (d.timeout_ms > 0)
    hand_over_at = self->clock().now() + std::chrono::milliseconds(d.timeout_ms);
}

void decode_state::hand_over() {
  std::vector<std::uint64_t> all;
  for (const auto& [id, e] : entries) all.push_back(id);
  for (auto id : all) {
    cancel(id);
    if (auto it = entries.find(id); it != entries.end())
      on_refused({id, it->second.try_number, false,
                  error{ec::draining, node->info.name + " leaves the cluster"}});
  }
}

decode_actor::behavior_type decode_state::make_behavior() {
  self->set_down_handler([this](caf::down_msg& down) { on_down(down); });
  peers.start(self, {node->connector, node->options.connect_timeout, node->neighbours,
                     [this](const node_info& n) {
                       return node->puller->connect(incarnation{n.start}, n.transport_address);
                     },
                     [this](std::uint64_t, peer_table::peer& p) {
                       for (auto id : std::exchange(p.waiting, {})) ask_prefill(id);
                     },
                     [this](std::uint64_t start, const peer_table::peer& lost,
                            const peer_table::loss& why) { on_peer_lost(start, lost, why.why); }});
  self->delayed_send(self, tick_interval, caf::tick_atom_v);
  return {
      [this](const generate_request& r) { generate(r); },
      [this](const cancel_request& c) { cancel(c.id); },
      [this](const blocks_ready& m) { on_blocks(m); },
      [this](const first_token& m) { on_first_token(m); },
      [this](const prefill_failed& m) {
        auto it = entries.find(m.id);
        if (it != entries.end() && it->second.try_number == m.try_number)
          end_remote(m.id, true, to_string(error{m.code, m.detail}));
      },
      [this](const membership& m) {
        peers.update(m, [](const member& n) { return n.info.kind == role::prefill; });
      },
      [this](const metrics_request&) { return node->metrics_text(); },
      [this](const prefix_events_request& r) {
        if (auto to = caf::actor_cast<prefix_listener>(self->current_sender()))
          self->send(to, node->changes(r));
      },
      [this](const drain_request& d) { drain(d); },
      [this](const engine_happened& h) { on_events(*h.events); },
      [this](const pull_happened& m) { on_pull(m); },
      [this](const link_lost& l) { peers.drop(l.start, {to_string(l.why)}); },
      [this](const request_refused& r) { on_refused(r); },
      [this](const request_admitted& a) {
        auto it = entries.find(a.id);
        if (it != entries.end() && it->second.try_number == a.try_number)
          self->send(it->second.sink, generation_accepted{a.id, a.try_number});
      },
      [this](caf::tick_atom) {
        self->delayed_send(self, tick_interval, caf::tick_atom_v);
        check_silence();
        if (hand_over_at && self->clock().now() >= *hand_over_at) hand_over();
      },
  };
}

decode_actor::behavior_type decode(decode_actor::stateful_pointer<decode_state> self,
                                   std::shared_ptr<node_services> node) {
  self->state.node = std::move(node);
  return self->state.make_behavior();
}

}  // namespace troupe::actors
