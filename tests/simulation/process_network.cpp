#include "tests/simulation/process_network.hpp"

#include <caf/binary_deserializer.hpp>
#include <caf/binary_serializer.hpp>
#include <caf/make_actor.hpp>
#include <caf/response_promise.hpp>
#include <caf/scheduler/abstract_coordinator.hpp>
#include <caf/scoped_execution_unit.hpp>
#include <caf/send.hpp>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include "actors/interfaces.hpp"

namespace troupe::simulation {

// -- proxies ---------------------------------------------------------------------------------------------------------------

class proxy final : public caf::actor_proxy {
 public:
  proxy(caf::actor_config& config, process_network& net, process_id home, process_id of,
        caf::strong_actor_ptr target)
      : caf::actor_proxy(config), net_(net), home_(home), of_(of), target_(std::move(target)) {}

  void enqueue(caf::mailbox_element_ptr what, caf::execution_unit*) override {
    if (!getf(is_cleaned_up_flag)) net_.send(home_, of_, target_, std::move(what));
  }
  std::set<std::string> message_types() const override { return target_->get()->message_types(); }
  void kill_proxy(caf::execution_unit* context, caf::error reason) override {
    cleanup(std::move(reason), context);
  }

 private:
  process_network& net_;
  const process_id home_, of_;
  const caf::strong_actor_ptr target_;
};

// -- the actor that connects -------------------------------------------------------------------------------------------------

namespace {

using resolver = actors::connector_actor::extend<caf::reacts_to<caf::ok_atom, std::uint64_t>>;

struct resolver_state {
  struct waiting {
    std::string host;
    std::uint16_t port = 0;
    caf::typed_response_promise<caf::node_id, caf::strong_actor_ptr, std::set<std::string>> promise;
  };
  std::map<std::uint64_t, waiting> requests;
  std::uint64_t last = 0;
};

resolver::behavior_type resolve_peers(resolver::stateful_pointer<resolver_state> self,
                                      process_network* net, event_queue* events, random* chance,
                                      process_id home) {
  using answer = caf::result<caf::node_id, caf::strong_actor_ptr, std::set<std::string>>;
  return {
      [=](caf::connect_atom, const std::string& host, std::uint16_t port) -> answer {
        auto& s = self->state;
        const auto id = ++s.last;
        auto promise = self->make_response_promise<caf::node_id, caf::strong_actor_ptr,
                                                   std::set<std::string>>();
        s.requests[id] = {host, port, promise};
        net->at_process(
            home,
            events->now() + 2 * chance->between(net->weather.latency_min, net->weather.latency_max),
            [me = resolver(self), id] { caf::anon_send(me, caf::ok_atom_v, id); });
        return promise;
      },
      [=](caf::ok_atom, std::uint64_t id) {
        auto at = self->state.requests.find(id);
        if (at == self->state.requests.end()) return;
        auto request = std::move(at->second);
        self->state.requests.erase(at);
        auto found = net->connect(home, request.host, request.port);
        if (found)
          request.promise.deliver(found->node(), found, found->get()->message_types());
        else
          request.promise.deliver(caf::sec::cannot_connect_to_node);
      },
  };
}

// These may also never come: draft.hpp says that nobody waits for them.
bool of_guesses(const caf::message& m) {
  return m.match_elements<actors::draft_follow>() || m.match_elements<actors::draft_guesses>() ||
         m.match_elements<actors::draft_behind>();
}

// A peer may hear these twice: interfaces.hpp, messages.hpp and draft.hpp declare them idempotent.
bool idempotent(const caf::message& m) {
  return m.match_elements<actors::blocks_ready>() || m.match_elements<actors::first_token>() ||
         m.match_elements<actors::prefill_failed>() ||
         m.match_elements<actors::release_request>() ||
         m.match_elements<actors::cancel_request>() ||
         m.match_elements<actors::generation_tokens>() ||
         m.match_elements<actors::generation_accepted>() || m.match_elements<actors::heartbeat>() ||
         m.match_elements<actors::membership>() || m.match_elements<actors::draft_drop>() ||
         of_guesses(m);
}

}  // namespace

// -- processes -------------------------------------------------------------------------------------------------------------

process_network::process_network(caf::actor_system& system, event_queue& events, random& chance,
                                 trace& log)
    : system_(system), events_(events), chance_(chance), trace_(log) {}

process_network::~process_network() {
  close();
}

process_id process_network::start(std::string name, std::string host) {
  const auto id = ++last_;
  auto& p = processes_[id];
  p.name = std::move(name);
  p.host = std::move(host);
  p.node = *caf::make_node_id(id, "0123456789abcdef0123456789abcdef01234567");
  p.connector = system_.spawn(resolve_peers, this, &events_, &chance_, id);
  own(id, caf::actor_cast<caf::strong_actor_ptr>(p.connector));
  return id;
}

void process_network::publish(process_id p, std::uint16_t port,
                              const caf::strong_actor_ptr& actor) {
  processes_.at(p).published[port] = actor;
}

void process_network::own(process_id p, const caf::strong_actor_ptr& actor) {
  owners_[actor->id()] = p;
  processes_.at(p).actors.push_back(actor);
}

process_id process_network::owner_of(caf::actor_id actor) const {
  auto at = owners_.find(actor);
  return at == owners_.end() ? 0 : at->second;
}

std::vector<caf::strong_actor_ptr> process_network::actors_of(process_id p) const {
  return processes_.at(p).actors;
}

bool process_network::alive(process_id p) const {
  auto at = processes_.find(p);
  return at != processes_.end() && at->second.alive;
}

bool process_network::paused(process_id p) const {
  auto at = processes_.find(p);
  return at != processes_.end() && at->second.paused_until > events_.now();
}

time_point process_network::awake_at(process_id p) const {
  return std::max(events_.now(), processes_.at(p).paused_until);
}

void process_network::at_process(process_id p, time_point t, std::function<void()> action) {
  events_.at(t, [this, p, action = std::move(action)]() mutable {
    if (!alive(p)) return;
    if (paused(p)) return at_process(p, awake_at(p), std::move(action));
    action();
  });
}

void process_network::end(process_id p, bool silent) {
  auto& dead = processes_.at(p);
  if (!dead.alive) return;
  dead.alive = false;
  dead.published.clear();
  for (auto& [ends, c] : connections_) {
    if (ends.first != p && ends.second != p) continue;
    const auto other = ends.first == p ? ends.second : ends.first;
    open(p, other) = false;
    if (!alive(other)) continue;
    // A FIN comes behind what was sent before; a vanished host sends none.
    const auto epoch = c.epoch;
    auto closed = [this, p, other, epoch, pair = ends] {
      if (connections_[pair].epoch == epoch) give_up(other, p, "its process ended");
    };
    if (silent)
      events_.after(connection_timeout, closed);
    else
      ship(p, other, closed);
  }
}

void process_network::forget(process_id p) {
  auto& dead = processes_.at(p);
  dead.proxies.clear();
  dead.actors.clear();
  dead.connector = nullptr;
}

void process_network::pause(process_id p, time_point until) {
  auto& sleeper = processes_.at(p);
  sleeper.paused_until = std::max(sleeper.paused_until, until);
  for (auto& [id, other] : processes_)
    if (id != p && other.alive) watch_silence(p, id);
}

void process_network::cut(process_id from, process_id to, time_point until) {
  auto& d = directions_[{from, to}];
  d.blocked_until = std::max(d.blocked_until, until);
  watch_silence(from, to);
}

// When `to` has heard nothing of `from` for too long it gives the connection up.
void process_network::watch_silence(process_id from, process_id to) {
  events_.after(connection_timeout, [this, from, to, since = events_.now()] {
    if (!alive(to)) return;
    const auto quiet_until =
        std::max(directions_[{from, to}].blocked_until, processes_.at(from).paused_until);
    if (quiet_until <= events_.now()) return;
    if (paused(to))
      return at_process(to, awake_at(to), [this, from, to] { watch_silence(from, to); });
    give_up(to, from, "silence");
  });
}

// -- connections -------------------------------------------------------------------------------------------------------------

bool& process_network::open(process_id side, process_id other) {
  auto& c = connections_[pair_of(side, other)];
  return side < other ? c.open_low : c.open_high;
}

caf::strong_actor_ptr process_network::connect(process_id from, const std::string& host,
                                               std::uint16_t port) {
  for (auto& [id, p] : processes_) {
    if (!p.alive || p.host != host) continue;
    auto there = p.published.find(port);
    if (there == p.published.end()) continue;
    if (!open(from, id) || !open(id, from)) {
      const auto now = events_.now();
      // A blocked or sleeping side does not answer; a side that holds on to the old connection refuses a second one.
      if (directions_[{from, id}].blocked_until > now ||
          directions_[{id, from}].blocked_until > now || paused(id))
        return nullptr;
      if (open(from, id)) give_up(from, id, "reconnecting");
      if (open(id, from)) give_up(id, from, "the peer reconnects");
      auto& c = connections_[pair_of(from, id)];
      ++c.epoch;
      c.open_low = c.open_high = true;
      directions_[{from, id}].last_arrival = directions_[{id, from}].last_arrival = now;
      trace_.say(now, [&] { return name(from) + " connects to " + p.name; });
    }
    return proxy_for(from, id, there->second);
  }
  return nullptr;
}

caf::strong_actor_ptr process_network::proxy_for(process_id home, process_id of,
                                                 const caf::strong_actor_ptr& real) {
  auto& slot = processes_.at(home).proxies[{of, real->id()}];
  if (slot) return slot;
  caf::actor_config config;
  slot = caf::make_actor<proxy, caf::strong_actor_ptr>(real->id(), processes_.at(of).node, &system_,
                                                       config, *this, home, of, real);
  // When the actor ends while its process lives, its monitors hear why, behind what it said before.
  const auto epoch = connections_[pair_of(home, of)].epoch;
  real->get()->attach_functor([this, home, of, epoch, id = real->id()](const caf::error& reason) {
    if (!alive(of)) return;
    ship(of, home, [this, home, of, epoch, id, reason] {
      auto at = processes_.at(home).proxies.find({of, id});
      if (at == processes_.at(home).proxies.end() || connections_[pair_of(home, of)].epoch != epoch)
        return;
      auto dead = std::move(at->second);
      processes_.at(home).proxies.erase(at);
      static_cast<caf::actor_proxy*>(dead->get())->kill_proxy(nullptr, reason);
    });
  });
  return slot;
}

// The side drops its end: its proxies of the other side are dead, what is under way to it is lost.
void process_network::give_up(process_id side, process_id other, const char* why) {
  if (!alive(side) || !open(side, other)) return;
  open(side, other) = false;
  trace_.mark(events_.now(), 11, side, other);
  trace_.say(events_.now(),
             [&] { return name(side) + " closes its connection to " + name(other) + ": " + why; });
  auto& mine = processes_.at(side).proxies;
  std::vector<caf::strong_actor_ptr> dead;
  for (auto at = mine.lower_bound({other, 0}); at != mine.end() && at->first.first == other;
       at = mine.erase(at))
    dead.push_back(std::move(at->second));
  for (auto& d : dead)
    static_cast<caf::actor_proxy*>(d->get())->kill_proxy(
        nullptr, caf::make_error(caf::exit_reason::remote_link_unreachable));
  if (!alive(other) || !open(other, side)) return;
  // The other side hears of it as soon as anything gets there, else by its own silence.
  const auto epoch = connections_[pair_of(side, other)].epoch;
  const auto passes = std::max(events_.now(), directions_[{side, other}].blocked_until);
  const auto hears = std::min(passes, events_.now() + connection_timeout) +
                     chance_.between(weather.latency_min, weather.latency_max);
  at_process(other, hears, [this, side, other, epoch] {
    if (connections_[pair_of(side, other)].epoch == epoch)
      give_up(other, side, "closed by the peer");
  });
}

// In order, each not before its time, none while the way is blocked: as TCP, which sends again what was lost.
void process_network::ship(process_id from, process_id to, std::function<void()> arrival) {
  auto& d = directions_[{from, to}];
  d.last_arrival = std::max(
      d.last_arrival, events_.now() + chance_.between(weather.latency_min, weather.latency_max));
  d.under_way.emplace_back(d.last_arrival, std::move(arrival));
  pump(from, to);
}

void process_network::pump(process_id from, process_id to) {
  auto& d = directions_[{from, to}];
  if (d.pumped || d.under_way.empty()) return;
  d.pumped = true;
  events_.at(std::max(d.under_way.front().first, d.blocked_until), [this, from, to] {
    auto& way = directions_[{from, to}];
    way.pumped = false;
    if (way.blocked_until <= events_.now() && !way.under_way.empty()) {
      auto arrival = std::move(way.under_way.front().second);
      way.under_way.pop_front();
      arrival();
    }
    pump(from, to);
  });
}

void process_network::send(process_id from, process_id to, const caf::strong_actor_ptr& target,
                           caf::mailbox_element_ptr what) {
  if (!alive(from) || !open(from, to)) return;
  ++messages_;
  auto content = what->move_content_to_message();
  trace_.mark(events_.now(), 12, from, to);
  if (distort) content = distort(from, content);
  if (weather.through_wire) content = through_wire(content);
  if (weather.lose > 0 && of_guesses(content) && chance_.chance(weather.lose)) return;
  if (weather.lose_releases > 0 && content.match_elements<actors::release_request>() &&
      chance_.chance(weather.lose_releases))
    return;
  const auto epoch = connections_[pair_of(from, to)].epoch;
  const int copies =
      weather.duplicate > 0 && idempotent(content) && chance_.chance(weather.duplicate) ? 2 : 1;
  for (int i = 0; i < copies; ++i)
    ship(from, to,
         [this, from, to, epoch, target, sender = what->sender, mid = what->mid, content] {
           deliver(from, to, epoch, target, sender, mid, content);
         });
}

void process_network::deliver(process_id from, process_id to, std::uint64_t epoch,
                              const caf::strong_actor_ptr& target,
                              const caf::strong_actor_ptr& sender, caf::message_id mid,
                              const caf::message& content) {
  if (!alive(to) || connections_[pair_of(from, to)].epoch != epoch || !open(to, from)) return;
  trace_.mark(events_.now(), 13, to, target->id());
  trace_.say(events_.now(), [&] {
    auto text = caf::to_string(content);
    if (text.size() > 160) text = text.substr(0, 160) + "...";
    for (char& c : text)
      if (c < ' ' || c > '~') c = '.';  // transport addresses are bytes
    return name(from) + " -> " + name(to) + ": " + text;
  });
  auto from_there = sender ? proxy_for(to, from, sender) : nullptr;
  target->enqueue(caf::make_mailbox_element(std::move(from_there), mid, {}, content), nullptr);
}

caf::message process_network::through_wire(const caf::message& m) {
  caf::scoped_execution_unit context{&system_};
  std::vector<char> bytes;
  caf::binary_serializer out{&context, bytes};
  auto copy = m;
  if (auto failed = out(copy)) TROUPE_ASSERT(!"a message that leaves its process can be written");
  caf::message back;
  caf::binary_deserializer in{&context, bytes};
  if (auto failed = in(back)) TROUPE_ASSERT(!"a message that was written can be read");
  return back;
}

std::size_t process_network::connections() const {
  std::size_t n = 0;
  for (auto& [ends, c] : connections_)
    if ((c.open_low && alive(ends.first)) || (c.open_high && alive(ends.second))) ++n;
  return n;
}

void process_network::close() {
  directions_.clear();
  for (auto& [id, p] : processes_) {
    p.alive = false;
    p.published.clear();
    p.connector = nullptr;
    p.proxies.clear();
    p.actors.clear();
  }
}

}  // namespace troupe::simulation
