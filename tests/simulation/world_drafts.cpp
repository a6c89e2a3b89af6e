// Draft nodes in the world: what must hold of them, and the one that talks nonsense.
#include "actors/draft.hpp"
#include "actors/draft_client.hpp"
#include "tests/simulation/actor_state.hpp"
#include "tests/simulation/hash_runner.hpp"
#include "tests/simulation/world.hpp"

namespace troupe::simulation {
namespace {

using actors::draft_guess;

// Beyond these a client talks to a silent draft twice a second only.
constexpr std::uint32_t most_unheard = 256 + 2 * 120;

actors::draft_state* draft_state_of(const actors::node_runtime& runtime) {
  auto* s = state_of<actors::draft_state, actors::draft_actor>(runtime.actors().front());
  return s != nullptr && s->context ? s : nullptr;
}

actors::draft_client_state* client_state_of(const actors::node_runtime& runtime) {
  return state_of<actors::draft_client_state, actors::draft_client_actor>(
      runtime.services()->draft_client);
}

void distort(draft_guess& g, random& r, std::uint32_t vocab_size) {
  switch (r.below(9)) {
    case 0:  // no token at all, and one just beyond the last
      g.tokens[r.below(g.tokens.size())] = r.below(2) == 0 ? ~0u : vocab_size;
      return;
    case 1:
      for (auto& t : g.tokens) t = static_cast<std::uint32_t>(r.below(vocab_size));
      g.sureness.assign(g.tokens.size(), 255);
      return;
    case 2:
      g.tokens.resize(r.below(3) * 100, 3);
      g.sureness.resize(g.tokens.size(), 200);
      return;
    case 3:
      g.sureness.resize(r.below(2) == 0 ? 0 : g.sureness.size() + 1, 255);
      return;
    case 4:
      g.first += r.between(1, 3);
      return;
    case 5:
      g.first -= std::min(g.first, r.between(1, 3));
      return;
    case 6:
      g.first = r.below(2) == 0 ? ~0u : 0;
      return;
    case 7:
      g.id += 1 + r.below(3);
      return;
    default:
      g.try_number += 1;
      return;
  }
}

}  // namespace

engine::speculation_options world::speculation() const {
  engine::speculation_options o;
  const auto& d = scenario_.drafts;
  if (d.num_drafts == 0) return o;
  o.from_text = d.from_text;
  o.history_bytes = d.history ? 1 << 20 : 0;
  o.branches = d.branches;
  o.max_tokens = d.max_tokens;
  o.try_draft = d.trial;
  o.always = !d.measured;
  return o;
}

std::unique_ptr<actors::draft_driver> world::make_drafter(node& n,
                                                          std::unique_ptr<engine::draft_engine> e,
                                                          actors::draft_driver::hooks h) {
  stepped_draft::context c{turn_context_of(n), {}, {}, {}};
  c.turned = [this, &n] {
    trace_.mark(events_.now(), 4, n.index);
    check_draft_engine(n);
  };
  c.cost = [this, &n](const std::vector<engine::draft_run>& runs) {
    using std::chrono::microseconds;
    return microseconds(20 + chance_.below(40)) + microseconds(10) * runs.size() +
           hiccup(n, nanoseconds(100'000'000));
  };
  auto driver = std::make_unique<stepped_draft>(std::move(e), std::move(h), std::move(c));
  n.drafter = driver.get();
  return driver;
}

// What a draft of which nothing is right says in place of what it means, most of the time.
caf::message world::nonsense(const caf::message& m) {
  if (chance_.below(4) == 0) return m;
  if (m.match_elements<actors::draft_behind>()) {
    auto b = m.get_as<actors::draft_behind>(0);
    b.known = chance_.below(2) == 0 ? ~0u : static_cast<std::uint32_t>(chance_.below(64));
    b.id += chance_.below(2);
    return caf::make_message(b);
  }
  if (!m.match_elements<actors::draft_guesses>()) return m;
  auto g = m.get_as<actors::draft_guesses>(0);
  for (auto& one : g.all) distort(one, chance_, served_model()->config.vocab_size);
  if (chance_.below(8) == 0)
    for (int i = 0; i < 4; ++i) g.all.insert(g.all.end(), g.all.begin(), g.all.end());
  return caf::make_message(g);
}

// Its KV is that of its tokens: what was guessed wrongly left nothing behind.
void world::check_draft_engine(const node& n) {
  const auto name = scenario_.process_name(n.index);
  const auto& e = n.drafter->looked_at();
  if (auto broken = e.check_invariants(); !broken.empty()) return violated(name + ": " + broken);
  auto* device = dynamic_cast<hash_runner*>(n.device);
  if (device == nullptr) return;
  for (const auto& s : e.sequences())
    if (!device->holds(s.tokens.first(s.computed), s.table))
      return violated(name + ": the KV of sequence " + std::to_string(s.key) +
                      " is not that of its tokens");
}

void world::check_draft(const node& n) {
  if (!n.runtime) return;
  const auto* s = draft_state_of(*n.runtime);
  if (s == nullptr) return;
  std::size_t followed = 0;
  for (const auto& [reader, count] : s->readers) followed += count;
  if (s->sequences.size() != s->keys.size() || followed != s->keys.size())
    violated(scenario_.process_name(n.index) + ": it does not know whom it follows");
}

// What a decode node has told a draft that does not answer is bounded.
void world::check_draft_client(const node& n) {
  if (!n.runtime || n.index > scenario_.num_decode) return;
  const auto* c = client_state_of(*n.runtime);
  if (c == nullptr) return;
  for (const auto& [start, p] : c->peers)
    if (p.unheard > most_unheard)
      violated(scenario_.process_name(n.index) + ": it talks to a draft that is silent");
}

void world::check_quiet_draft(const node& n) {
  const auto name = scenario_.process_name(n.index);
  const auto* s = draft_state_of(*n.runtime);
  if (s == nullptr) return violated(name + " has no actor");
  if (!s->sequences.empty() || !s->keys.empty()) return violated(name + ": a sequence is left");
  if (!s->readers.empty()) return violated(name + ": a reader is left");
  const auto& e = n.drafter->looked_at();
  const auto stats = e.stats();
  if (stats.sequences > 0 || e.has_work()) return violated(name + ": its engine keeps a sequence");
  if (stats.blocks_free != scenario_.drafts.num_blocks) violated(name + ": blocks are left");
}

void world::check_quiet_draft_client(const node& n) {
  if (n.index > scenario_.num_decode) return;
  const auto name = scenario_.process_name(n.index);
  const auto* c = client_state_of(*n.runtime);
  if (c == nullptr) return violated(name + ": its draft client is gone");
  if (!c->sequences.empty()) return violated(name + ": its draft client keeps a sequence");
  const auto connected = c->peers.connected();
  if (connected != scenario_.drafts.num_drafts || c->peers.size() != connected)
    return violated(name + ": it is connected to " + std::to_string(connected) + " of " +
                    std::to_string(scenario_.drafts.num_drafts) + " drafts and knows " +
                    std::to_string(c->peers.size()));
}

}  // namespace troupe::simulation
