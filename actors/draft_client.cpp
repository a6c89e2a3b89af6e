#include "actors/draft_client.hpp"

#include <algorithm>

#include "actors/wire.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr std::size_t longest_guess = 64;  // tokens
// A draft that does not answer (it is paused, its link is down) is not told more and more.
constexpr std::uint32_t most_unheard = 256;
constexpr auto retry_interval = std::chrono::milliseconds(500);

}  // namespace

// -- requests --------------------------------------------------------------------------------------------------------------

void draft_client_state::begin(const draft_begin& m) {
  const std::size_t size = m.request->prompt.size() + m.request->output.size();
  const auto known = sequences.find(m.id);
  if (known != sequences.end() && known->second.try_number == m.try_number &&
      known->second.tokens.size() >= size)
    return;   // told by the decode actor and by the engine
  end(m.id);  // an earlier try
  sequence s;
  s.try_number = m.try_number;
  s.tokens = m.request->prompt;
  s.tokens.insert(s.tokens.end(), m.request->output.begin(), m.request->output.end());
  s.num_prompt = static_cast<std::uint32_t>(m.request->prompt.size());
  s.sampling = m.request->sampling;
  auto& added = sequences[m.id] = std::move(s);
  // A draft that has proved its worth reads the prompt while the target does; others must not delay the first token.
  if (node->loop->stats().speculation.draft_proven) tell(m.id, added);
}

// Its answers are on their way before the events of later passes.
void draft_client_state::ask_engine() {
  if (asking || !expected) return;
  asking = true;
  const draft_client_actor me(self);
  node->loop->post_completion([me](engine::engine& eng, engine::time_point) {
    for (engine::running_text& t : eng.running_texts()) {
      auto r = std::make_shared<generate_request>();
      r->id = raw(t.id);
      r->try_number = t.try_number;
      r->prompt.assign(t.tokens.begin(), t.tokens.begin() + t.num_prompt);
      r->output.assign(t.tokens.begin() + t.num_prompt, t.tokens.end());
      r->sampling = to_wire(t.sampling);
      caf::anon_send(me, draft_begin{r->id, r->try_number, r});
    }
    caf::anon_send(me, draft_begin{});
  });
}

void draft_client_state::on_events(const engine::events& e) {
  // Without a draft only ends matter.
  const bool wanted = expected && node->loop->stats().speculation.draft_wanted;
  for (const auto& t : e.tokens) {
    auto at = sequences.find(raw(t.id));
    if (at == sequences.end() || at->second.try_number != t.try_number) {
      ask_engine();  // it was given to the engine while the first draft came
      continue;
    }
    sequence& s = at->second;
    for (const auto& token : t.tokens)
      if (s.num_prompt + token.index == s.tokens.size()) s.tokens.push_back(token.token);
    if (wanted) tell(raw(t.id), s);
  }
  for (const auto& f : e.finished) {
    auto at = sequences.find(raw(f.id));
    if (at != sequences.end() && at->second.try_number == f.try_number) end(raw(f.id));
  }
}

void draft_client_state::end(std::uint64_t id) {
  auto at = sequences.find(id);
  if (at == sequences.end()) return;
  if (const auto draft = peers.actor_of(at->second.draft))
    self->send(draft, draft_drop{id, at->second.try_number});
  sequences.erase(at);
}

// The sequence's draft; another one is told from the beginning.
draft_client_state::peer* draft_client_state::draft_of(std::uint64_t id, sequence& s) {
  if (auto* p = peers.find(s.draft); p != nullptr && p->actor) return p;
  std::vector<std::uint64_t> ready;
  for (const auto& [start, p] : peers)
    if (p.actor) ready.push_back(start);
  if (ready.empty()) return nullptr;
  s.draft = ready[id % ready.size()];
  s.told = 0;
  return &peers.at(s.draft);
}

void draft_client_state::tell(std::uint64_t id, sequence& s) {
  peer* p = draft_of(id, s);
  if (p == nullptr || s.told >= s.tokens.size()) return;
  if (p->unheard >= most_unheard) {
    if (self->clock().now() < p->retry_at) return;
    p->retry_at = self->clock().now() + retry_interval;
  }
  ++p->unheard;
  draft_follow m{
      id, s.try_number, s.told, {s.tokens.begin() + s.told, s.tokens.end()}, s.num_prompt, {}};
  if (s.told == 0) m.sampling = s.sampling;
  s.told = static_cast<std::uint32_t>(s.tokens.size());
  self->send(p->actor, std::move(m));
}

void draft_client_state::on_guesses(const draft_guesses& m) {
  const auto from = peers.start_of(caf::actor_cast<caf::actor_addr>(self->current_sender()));
  if (from == 0) return;
  peers.at(from).unheard = 0;
  for (const draft_guess& g : m.all) {
    auto at = sequences.find(g.id);
    if (at == sequences.end() || at->second.try_number != g.try_number || at->second.draft != from)
      continue;
    const sequence& s = at->second;
    const bool malformed = g.tokens.empty() || g.tokens.size() > longest_guess ||
                           g.sureness.size() != g.tokens.size() || g.first > s.tokens.size();
    const bool late = !malformed && g.first + g.tokens.size() <= s.tokens.size();
    node->metrics->on_guess(malformed ? "malformed" : late ? "late" : "in_time");
    if (malformed || late) continue;
    auto offered = node->loop->post([g](engine::engine& e, engine::time_point) {
      e.offer_draft(request_id{g.id}, g.try_number, g.first, g.tokens, g.sureness);
    });
    if (!offered) return;  // the engine cannot keep up
  }
}

// Told with the next token, so that a draft that knows nothing cannot make us talk faster than we decode.
void draft_client_state::on_behind(const draft_behind& m) {
  const auto from = peers.start_of(caf::actor_cast<caf::actor_addr>(self->current_sender()));
  if (from == 0) return;
  peers.at(from).unheard = 0;
  auto at = sequences.find(m.id);
  if (at == sequences.end() || at->second.try_number != m.try_number || at->second.draft != from)
    return;
  at->second.told = std::min(at->second.told, m.known);
}

// -- drafts ----------------------------------------------------------------------------------------------------------------

void draft_client_state::on_lost(std::uint64_t start, const peer& lost, const std::string& why) {
  spdlog::warn("draft {} is lost: {}", lost.info.name, why);
  // Where it lives on and only the directory lost sight of it, it would follow them for as long as this node lives.
  if (lost.actor)
    for (const auto& [id, s] : sequences)
      if (s.draft == start) self->send(lost.actor, draft_drop{id, s.try_number});
  update_expected();
}

void draft_client_state::update_expected() {
  const bool any = peers.connected() > 0;
  if (any == expected) return;
  expected = any;
  node->drafts_ready = any;
  if (!any) sequences.clear();
  node->loop->post_completion(
      [any](engine::engine& e, engine::time_point) { e.expect_drafts(any); });
  ask_engine();
}

draft_client_actor::behavior_type draft_client_state::make_behavior() {
  self->set_down_handler([this](caf::down_msg& down) { peers.down(down.source); });
  peers.start(self, {node->connector, node->options.connect_timeout, node->neighbours, nullptr,
                     [this](std::uint64_t, peer&) { update_expected(); },
                     [this](std::uint64_t start, const peer& lost, const peer_table::loss& why) {
                       on_lost(start, lost, why.why);
                     }});
  return {
      [this](const membership& m) {
        peers.update(m, [this](const member& n) {
          return n.info.kind == role::draft && n.state != node_state::draining &&
                 n.info.vocabulary == node->info.vocabulary;
        });
      },
      [this](const draft_guesses& m) { on_guesses(m); },
      [this](const draft_behind& m) { on_behind(m); },
      [this](const draft_begin& m) {
        if (m.request) return begin(m);
        asking = false;  // that is all that the engine runs
      },
      [this](const engine_happened& h) { on_events(*h.events); },
  };
}

draft_client_actor::behavior_type draft_client(
    draft_client_actor::stateful_pointer<draft_client_state> self,
    std::shared_ptr<node_services> node) {
  self->state.node = std::move(node);
  return self->state.make_behavior();
}

}  // namespace troupe::actors
