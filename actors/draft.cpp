#include "actors/draft.hpp"

#include "actors/wire.hpp"
#include "base/log.hpp"
#include "base/mutation.hpp"

namespace troupe::actors {
namespace {

constexpr std::size_t most_sequences = 8192;

}  // namespace

void draft_state::follow(const draft_follow& m) {
  auto reader = caf::actor_cast<draft_reader>(self->current_sender());
  if (!reader || context->node->state == node_state::draining) return;
  const name_of called{reader.address(), m.id, m.try_number};
  auto known = keys.find(called);
  if (known == keys.end()) {
    if (m.first > 0) return self->send(reader, draft_behind{m.id, m.try_number, 0});
    if (sequences.size() >= most_sequences) return;
    known = keys.emplace(called, next_key++).first;
    sequences.emplace(known->second, sequence{reader, m.id, m.try_number});
    if (readers[reader.address()]++ == 0) self->monitor(reader);
  }
  auto told = [me = draft_actor(self), key = known->second, m](engine::draft_engine& e,
                                                               engine::time_point) {
    const engine::draft_engine::beginning start{m.num_prompt, from_wire(m.sampling)};
    const auto need = e.follow(key, m.first, m.tokens, m.first == 0 ? &start : nullptr);
    if (!need) {
      spdlog::warn("a sequence cannot be drafted: {}", to_string(need.error()));
      return;
    }
    if (*need) caf::anon_send(me, draft_happened{{}, {draft_behind{key, 0, **need}}});
  };
  // What a full queue refuses is found missing with the next one.
  context->loop->post(std::move(told));
}

void draft_state::drop(const caf::actor_addr& reader, std::uint64_t id, std::uint32_t try_number) {
  auto known = keys.find({reader, id, try_number});
  if (known == keys.end()) return;
  // Never refused: a sequence that nobody asks for would keep its blocks.
  context->loop->post_completion(
      [key = known->second](engine::draft_engine& e, engine::time_point) { e.drop(key); });
  sequences.erase(known->second);
  keys.erase(known);
  if (auto r = readers.find(reader); r != readers.end() && --r->second == 0) {
    readers.erase(r);
    self->demonitor(reader);
  }
}

// Off the loop's thread come keys; each reader hears of its own requests.
void draft_state::tell(const draft_happened& m) {
  std::map<caf::actor_addr, std::pair<draft_reader, draft_guesses>> by_reader;
  for (const draft_guess& g : m.guesses) {
    auto s = sequences.find(g.id);
    if (s == sequences.end()) continue;
    auto& [reader, all] = by_reader[s->second.reader.address()];
    reader = s->second.reader;
    all.all.push_back(g);
    all.all.back().id = s->second.id;
    all.all.back().try_number = s->second.try_number;
  }
  for (auto& [addr, to] : by_reader) self->send(to.first, std::move(to.second));
  for (const draft_behind& b : m.behind)
    if (auto s = sequences.find(b.id); s != sequences.end())
      self->send(s->second.reader, draft_behind{s->second.id, s->second.try_number, b.known});
}

void draft_state::on_down(const caf::actor_addr& reader) {
  if (TROUPE_PLANTED(draft_reader_off)) return;
  std::vector<name_of> orphans;
  for (const auto& [called, key] : keys)
    if (std::get<0>(called) == reader) orphans.push_back(called);
  for (const auto& [addr, id, try_number] : orphans) drop(addr, id, try_number);
}

draft_actor::behavior_type draft_state::make_behavior() {
  self->set_down_handler([this](caf::down_msg& down) { on_down(down.source); });
  return {
      [this](const draft_follow& m) { follow(m); },
      [this](const draft_drop& m) {
        drop(caf::actor_cast<caf::actor_addr>(self->current_sender()), m.id, m.try_number);
      },
      [this](const metrics_request&) {
        context->metrics->update(context->loop->stats());
        context->metrics->update_fabric(context->node->puller->stats());
        return context->metrics->text();
      },
      [this](const drain_request& d) {
        context->node->restart = d.restart;
        context->node->state = node_state::draining;
      },
      [this](const draft_happened& m) { tell(m); },
  };
}

draft_actor::behavior_type draft(draft_actor::stateful_pointer<draft_state> self,
                                 std::shared_ptr<draft_context> context) {
  self->state.context = std::move(context);
  return self->state.make_behavior();
}

}  // namespace troupe::actors
