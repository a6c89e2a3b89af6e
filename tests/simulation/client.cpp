#include "tests/simulation/client.hpp"

#include "actors/wire.hpp"

namespace troupe::simulation {
namespace {

struct state {
  actors::gateway_actor gateway;
  std::vector<std::uint64_t> waiting;
  bool connecting = false;
};

actors::generate_request message_of(const conversation& c) {
  actors::generate_request m;
  m.id = c.id;
  m.prompt = prompt_of(c.asked);
  m.sampling = actors::to_wire(sampling_of(c.asked));
  m.timeout_ms = static_cast<std::uint64_t>(c.asked.timeout.count());
  return m;
}

void take(conversation& c, const actors::generation_tokens& m) {
  if (m.of_prompt) return;
  if (c.end && c.broken.empty()) c.broken = "tokens came after the end";
  for (const auto& t : m.tokens) {
    if (t.index != c.tokens.size()) {
      // A repeated message is the network's doing when it duplicates; a gap never is.
      if (t.index > c.tokens.size() && c.broken.empty())
        c.broken = "token " + std::to_string(c.tokens.size()) + " is missing";
      if (t.index < c.tokens.size() && c.tokens[t.index] != t.token && c.broken.empty())
        c.broken = "token " + std::to_string(t.index) + " came twice, differently";
      continue;
    }
    c.tokens.push_back(t.token);
  }
}

}  // namespace

caf::behavior client(caf::event_based_actor* self, std::shared_ptr<client_book> book) {
  auto s = std::make_shared<state>();
  auto lose = [self, book, s] {
    s->gateway = nullptr;
    for (auto& [id, c] : book->conversations)
      if (c->submitted && !c->over()) {
        c->connection_lost = true;
        book->heard(*c);
      }
  };
  auto flush = [self, book, s] {
    for (auto id : std::exchange(s->waiting, {})) {
      auto* c = book->conversations.at(id);
      if (!c->over()) self->send(s->gateway, message_of(*c));
    }
  };
  self->set_down_handler([lose](caf::down_msg&) { lose(); });
  return {
      [=](caf::ok_atom, std::uint64_t id) {
        auto* c = book->conversations.at(id);
        c->submitted = true;
        c->at = book->now();
        s->waiting.push_back(id);
        if (s->gateway) return flush();
        if (std::exchange(s->connecting, true)) return;
        actors::connect_to<actors::gateway_actor>(
            self, book->connector, book->server_host, book->server_port, milliseconds(3000),
            [=](const actors::gateway_actor& g) {
              s->connecting = false;
              s->gateway = g;
              self->monitor(g);
              flush();
            },
            [=](const error&) {
              s->connecting = false;
              s->waiting.clear();
              lose();
            });
      },
      [=](caf::tick_atom, std::uint64_t id) {
        if (s->gateway) self->send(s->gateway, actors::cancel_request{id});
      },
      [](const actors::generation_accepted&) {},
      [=](const actors::generation_tokens& m) {
        auto at = book->conversations.find(m.id);
        if (at == book->conversations.end()) return;
        take(*at->second, m);
        at->second->last_word = book->now();
        book->heard(*at->second);
      },
      [=](const actors::generation_finished& m) {
        auto at = book->conversations.find(m.id);
        if (at == book->conversations.end()) return;
        auto& c = *at->second;
        if (c.end && c.broken.empty()) c.broken = "it ended twice";
        c.end = m;
        c.last_word = book->now();
        book->heard(c);
      },
  };
}

}  // namespace troupe::simulation
