// What must hold after every event, and what may be left when all is quiet.
#include <caf/stateful_actor.hpp>
#include <set>

#include "actors/decode.hpp"
#include "actors/directory.hpp"
#include "actors/prefill.hpp"
#include "actors/router.hpp"
#include "actors/wire.hpp"
#include "tests/simulation/actor_state.hpp"
#include "tests/simulation/world.hpp"

namespace troupe::simulation {

void world::violated(const std::string& what) {
  if (!violation_.empty()) return;
  violation_ = what;
  trace_.say(events_.now(), [&] { return "VIOLATION: " + what; });
}

void world::check_node(const node& n) {
  if (n.driver == nullptr) return;
  const auto name = scenario_.process_name(n.index);
  auto& e = n.driver->looked_at();
  if (auto broken = e.check_invariants(); !broken.empty()) return violated(name + ": " + broken);
  const auto s = e.stats();
  if (s.blocks_free + s.blocks_cached + s.blocks_writing + s.blocks_sealed + s.blocks_pulling +
          s.blocks_quarantined !=
      scenario_.num_blocks)
    return violated(name + ": blocks in all states are not the pool");
  if (s.held > 0 && e.next_deadline() > to_local(n.index, events_.now()) + scenario_.lease)
    return violated(name + ": nobody watches a lease");
  if (s.waiting > scenario_.max_waiting + scenario_.max_num_seqs)
    return violated(name + ": " + std::to_string(s.waiting) + " requests wait");
}

// No block is free while an operation may still write into it.
void world::check_fabric() {
  for (auto& [index, n] : nodes_) {
    if (scenario_.is_store(index)) check_store(n);
    if (scenario_.is_draft(index)) check_draft(n);
    if (!n.runtime || n.driver == nullptr) continue;
    std::size_t targeted = 0;
    for (const auto& bytes : fabric_->targets(incarnation{n.start})) {
      (void)bytes;
      ++targeted;
    }
    if (targeted == 0) continue;
    const auto s = n.driver->looked_at().stats();
    if (targeted > s.blocks_pulling + s.blocks_quarantined)
      return violated(scenario_.process_name(index) + ": pulls may still write into " +
                      std::to_string(targeted) + " blocks, but only " +
                      std::to_string(s.blocks_pulling + s.blocks_quarantined) +
                      " are kept for them");
  }
}

void world::check_conversation(const conversation& c) {
  const auto name = "request " + std::to_string(c.id);
  if (c.end || c.over()) {
    trace_.mark(events_.now(), 30, c.id, c.tokens.size());
    trace_.say(events_.now(), [&] {
      return name + " ends after " + std::to_string(c.tokens.size()) + " tokens: " +
             (c.end ? std::string(
                          engine::to_string(static_cast<engine::finish_reason>(c.end->reason))) +
                          (c.end->code == ec::none
                               ? ""
                               : ", " + to_string(error{c.end->code, c.end->detail}))
                    : "its connection is lost");
    });
  }
  if (!c.broken.empty()) return violated(name + ": " + c.broken);
  const auto& expected = expected_answer(scenario_.device, scenario_.block_tokens, c.asked);
  for (std::size_t i = 0; i < c.tokens.size(); ++i)
    if (i >= expected.tokens.size() || c.tokens[i] != expected.tokens[i])
      return violated(name + ": token " + std::to_string(i) + " is " + std::to_string(c.tokens[i]) +
                      ", without faults it is " +
                      (i < expected.tokens.size() ? std::to_string(expected.tokens[i])
                                                  : std::string("the end")));
  if (!c.end) return;
  const auto reason = static_cast<engine::finish_reason>(c.end->reason);
  if (reason == engine::finish_reason::stop || reason == engine::finish_reason::length) {
    if (c.tokens.size() != expected.tokens.size() || reason != expected.reason)
      violated(name + " ended as if complete after " + std::to_string(c.tokens.size()) + " of " +
               std::to_string(expected.tokens.size()) + " tokens");
  } else if (reason == engine::finish_reason::abort) {
    if (c.asked.cancel_after.count() == 0) violated(name + " was aborted, but nobody asked for it");
  } else if (c.end->code == ec::none || c.end->code == ec::internal ||
             c.end->code == ec::invalid_argument || c.end->code == ec::fence_mismatch ||
             c.end->code == ec::identity_mismatch || c.end->code == ec::not_found) {
    violated(name + " ended with " + to_string(error{c.end->code, c.end->detail}) +
             ", which tells a client nothing");
  } else if (scenario_.faults.empty() && c.asked.timeout >= milliseconds(20'000)) {
    violated(name +
             " failed although nothing did: " + to_string(error{c.end->code, c.end->detail}));
  }
}

void world::check_bounds() {
  for (const auto& [index, n] : nodes_) check_draft_client(n);
  for (const auto& c : conversations_) {
    if (!c->submitted || c->over()) continue;
    // Its own time, the gateway's grace and tick, connecting, and the silence of a dead connection.
    const auto bound = c->asked.timeout + milliseconds(2000 + 250 + 3000 + 4500 + 500) + impaired_;
    if (events_.now() > c->at + bound)
      return violated("request " + std::to_string(c->id) + " has not ended within its bound of " +
                      std::to_string(bound.count()) + " ms");
  }
}

void world::check_quiescence() {
  if (auto* g = state_of<actors::gateway_state, actors::gateway_actor>(
          caf::actor_cast<caf::strong_actor_ptr>(server_actors_.gateway))) {
    if (!g->requests.empty()) return violated("the gateway still follows a request");
    for (auto& [start, n] : g->nodes)
      if (!n.waiting.empty()) return violated("the gateway's node keeps waiting requests");
    std::size_t ready = 0;
    for (const auto& m : g->latest.members)
      if (m.info.kind != actors::role::gateway && m.state == actors::node_state::ready) ++ready;
    check_quiet_server();
    if (ready != scenario_.num_nodes())
      return violated("only " + std::to_string(ready) + " of " +
                      std::to_string(scenario_.num_nodes()) + " nodes are members again");
  } else {
    return violated("there is no gateway");
  }
  for (auto& [index, n] : nodes_) {
    const auto name = scenario_.process_name(index);
    if (!n.runtime) return violated(name + " was not started again");
    if (scenario_.is_store(index)) {
      check_quiet_store(n);
      continue;
    }
    if (scenario_.is_draft(index)) {
      check_quiet_draft(n);
      continue;
    }
    check_quiet_store_client(n);
    check_quiet_draft_client(n);
    const auto s = n.driver->looked_at().stats();
    if (s.running + s.waiting + s.waiting_remote + s.held > 0)
      return violated(name + ": requests are left: " + std::to_string(s.running) + " running, " +
                      std::to_string(s.waiting) + " waiting, " + std::to_string(s.waiting_remote) +
                      " for a peer, " + std::to_string(s.held) + " held");
    if (s.blocks_writing + s.blocks_sealed + s.blocks_pulling + s.blocks_quarantined > 0)
      return violated(name + ": blocks are left: " + std::to_string(s.blocks_writing) +
                      " writing, " + std::to_string(s.blocks_sealed) + " sealed, " +
                      std::to_string(s.blocks_pulling) + " pulling, " +
                      std::to_string(s.blocks_quarantined) + " quarantined");
    if (n.runtime->services()->requests != 0)
      return violated(name + ": its actor still follows a request");
    if (!fabric_->targets(incarnation{n.start}).empty()) return violated(name + ": a pull is left");
    const auto actor = n.runtime->actors().front();
    if (auto* d = state_of<actors::decode_state, actors::decode_actor>(actor)) {
      if (!d->entries.empty()) return violated(name + ": an entry is left");
      if (d->peers.size() > scenario_.num_prefill) return violated(name + ": a dead peer is left");
      for (auto& [start, p] : d->peers)
        if (!p.waiting.empty()) return violated(name + ": a request waits for a connection");
    }
    if (auto* x = state_of<actors::prefill_state, actors::prefill_actor>(actor))
      if (!x->entries.empty()) return violated(name + ": an entry is left");
  }
  check_quiet_processes();
  const auto processes = 1 + scenario_.num_nodes() + scenario_.num_clients;
  if (network_.connections() > processes * (processes - 1) / 2) violated("connections are left");
}

// Connections, endpoints, monitors, requests between actors: none to what is gone, none twice.
void world::check_quiet_processes() {
  if (auto left = network_.left(); !left.empty()) return violated(left);
  std::set<std::uint64_t> living;
  for (const auto& [index, n] : nodes_) living.insert(n.start);
  for (const auto& [index, n] : nodes_)
    for (const auto& [peer, path] : n.fabric->stats().peers)
      if (!living.contains(raw(peer)))
        return violated(scenario_.process_name(index) + ": an endpoint of a dead peer is left");
}

void world::check_quiet_server() {
  const auto nodes = scenario_.num_nodes(), clients = scenario_.num_clients;
  const auto* g = state_of<actors::gateway_state, actors::gateway_actor>(
      caf::actor_cast<caf::strong_actor_ptr>(server_actors_.gateway));
  if (g->nodes.size() > nodes || g->nodes.connected() > nodes)
    return violated("the gateway knows " + std::to_string(g->nodes.size()) + " nodes and " +
                    std::to_string(g->nodes.connected()) + " actors of " + std::to_string(nodes));
  if (g->clients.size() > clients || g->subscribers.size() > clients)
    return violated("the gateway knows more clients than there are");
  const auto* d = state_of<actors::directory_state, actors::directory_actor>(
      caf::actor_cast<caf::strong_actor_ptr>(server_actors_.directory));
  if (d == nullptr) return violated("there is no directory");
  if (d->joined.size() > nodes + 1 || d->subscribers.size() > nodes + 1)
    return violated("the directory knows more nodes than there are");
  const auto* r = state_of<actors::router_state, actors::router_actor>(
      caf::actor_cast<caf::strong_actor_ptr>(server_actors_.router));
  if (r == nullptr) return violated("there is no router");
  if (r->sources.size() > nodes) violated("the router knows more nodes than there are");
}

void world::sum_node(const node& n) {
  sum_store(n);
  if (n.drafter != nullptr) {
    sums_.guessed += n.drafter->stats().drafted;
    sums_.draft_evictions += n.drafter->stats().evictions;
  }
  if (n.driver == nullptr) return;
  const auto s = n.driver->stats();
  sums_.fence_failures += s.fence_failures;
  sums_.leases_expired += s.leases_expired;
  sums_.preemptions += s.preemptions;
  sums_.drafted += s.speculation.drafted;
  sums_.accepted += s.speculation.accepted;
  sums_.draft_drafted += s.speculation.draft_drafted;
  sums_.draft_accepted += s.speculation.draft_accepted;
  sums_.branches_won += s.speculation.branches_won;
}

void world::settle(outcome& out) {
  for (auto& [index, n] : nodes_) sum_node(n);
  out = sums_;
  if (scenario_.perfect_drafts() && out.draft_accepted != out.draft_drafted)
    violated("a draft that computes what its target does was wrong");
  out.violation = violation_;
  out.hash = trace_.hash();
  out.events = trace_.events();
  out.lines = trace_.lines();
  out.virtual_time = std::chrono::duration_cast<milliseconds>(events_.now() - begin_);
  out.messages = network_.messages();
  for (const auto& c : conversations_) {
    if (c->client_gone) {
      ++out.client_gone;
    } else if (!c->end) {
      ++out.connection_lost;
    } else {
      const auto reason = static_cast<engine::finish_reason>(c->end->reason);
      out.blocks_pulled += c->end->blocks_pulled;
      if (c->end->migrations > 0) ++out.migrated;
      if (c->end->transfer_bytes > 0 && c->end->blocks_pulled == 0) ++out.store_hits;
      if (c->end->blocks_pulled > 0) ++out.paths[c->end->transfer_path];
      if (reason == engine::finish_reason::abort) {
        ++out.canceled;
      } else if (reason == engine::finish_reason::error) {
        ++out.failed;
        ++out.failures[std::string(to_string(c->end->code))];
      } else {
        ++out.answered;
      }
    }
  }
}

}  // namespace troupe::simulation
