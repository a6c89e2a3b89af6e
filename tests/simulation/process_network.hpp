// Processes and the connections between their actors, under virtual time: what CAF's middleman is in the product.
//
// An actor of another process is a proxy, as with CAF: what is sent to it travels by the pair's connection, in order,
// and arrives later with a proxy for its sender. A connection is one for each pair of processes, made by connect(),
// and behaves like TCP with heartbeats (notes/platform.md, section 1): a blocked direction holds messages back, after
// `connection_timeout` of silence each side gives it up by itself, and then every proxy of the other side is dead:
// monitors hear DOWN, requests under way hear nothing. A killed process is noticed in a moment (FIN), a vanished host
// only by silence. A restarted process is another process, also at the same host and port.
//
// One thread: the simulator's.
#pragma once

#include <caf/actor_proxy.hpp>
#include <caf/actor_system.hpp>
#include <deque>
#include <map>
#include <set>
#include <string>

#include "actors/connect.hpp"
#include "tests/simulation/event_queue.hpp"
#include "tests/simulation/random.hpp"
#include "tests/simulation/trace.hpp"

namespace troupe::simulation {

using process_id = std::uint32_t;  // of one start of a process; 0: none
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

struct network_weather {
  nanoseconds latency_min{30'000}, latency_max{400'000};
  double duplicate = 0;       // of messages that are declared idempotent
  double lose = 0;            // of messages that are declared to be nobody's need
  double lose_releases = 0;   // of leases, as when a link ends before they are sent
  bool through_wire = false;  // every message is serialized and read back
};

class process_network {
 public:
  static constexpr milliseconds connection_timeout{4000};  // as actors/system.cpp

  process_network(caf::actor_system& system, event_queue& events, random& chance, trace& log);
  ~process_network();

  network_weather weather;
  // What a process says instead; null: what it means.
  std::function<caf::message(process_id from, const caf::message&)> distort;

  // -- processes -----------------------------------------------------------------------------------------------------------
  process_id start(std::string name, std::string host);
  actors::connector_actor connector(process_id p) const { return processes_.at(p).connector; }
  // At the process's host.
  void publish(process_id p, std::uint16_t port, const caf::strong_actor_ptr& actor);
  void own(process_id p, const caf::strong_actor_ptr& actor);
  process_id owner_of(caf::actor_id actor) const;  // 0: nobody's
  std::vector<caf::strong_actor_ptr> actors_of(process_id p) const;
  const std::string& name(process_id p) const { return processes_.at(p).name; }
  bool alive(process_id p) const;
  bool paused(process_id p) const;
  time_point awake_at(process_id p) const;  // now, unless it is paused

  // The process ends: its words stop at once. Peers hear it in a moment, or only by silence if `silent`.
  void end(process_id p, bool silent);
  void forget(process_id p);  // after end(), when its actors are gone
  void pause(process_id p, time_point until);
  // Nothing gets from `from` to `to` until then.
  void cut(process_id from, process_id to, time_point until);
  // Of a process's own, when it lives and is awake; dropped when it has ended.
  void at_process(process_id p, time_point t, std::function<void()> action);

  // The process's proxy for a published actor, connecting if need be; null: it cannot be reached.
  caf::strong_actor_ptr connect(process_id from, const std::string& host, std::uint16_t port);

  std::size_t connections() const;  // between living processes
  // When all is quiet: a request without an answer, a monitor that was put twice, a handle of the dead; else empty.
  std::string left() const;
  std::uint64_t messages() const { return messages_; }
  void close();  // breaks every cycle of handles, before the actor system goes

 private:
  friend class proxy;
  struct process {
    std::string name, host;
    caf::node_id node;
    bool alive = true;
    time_point paused_until{};
    std::map<std::uint16_t, caf::strong_actor_ptr> published;  // by port
    actors::connector_actor connector;
    std::vector<caf::strong_actor_ptr> actors;
    std::map<std::pair<process_id, caf::actor_id>, caf::strong_actor_ptr> proxies;
  };
  struct direction {
    time_point blocked_until{}, last_arrival{};
    std::deque<std::pair<time_point, std::function<void()>>> under_way;
    bool pumped = false;  // an event for the first of them exists
  };
  struct connection {
    std::uint64_t epoch = 0;                   // of this pair: a new one each time that it is made
    bool open_low = false, open_high = false;  // what each side believes
  };
  using pair = std::pair<process_id, process_id>;
  static pair pair_of(process_id a, process_id b) { return std::minmax(a, b); }
  bool& open(process_id side, process_id other);

  void send(process_id from, process_id to, const caf::strong_actor_ptr& target,
            caf::mailbox_element_ptr what);
  void deliver(process_id from, process_id to, std::uint64_t epoch,
               const caf::strong_actor_ptr& target, const caf::strong_actor_ptr& sender,
               caf::message_id mid, const caf::message& content);
  void ship(process_id from, process_id to, std::function<void()> arrival);
  void pump(process_id from, process_id to);
  caf::strong_actor_ptr proxy_for(process_id home, process_id of,
                                  const caf::strong_actor_ptr& real);
  void watch_silence(process_id from, process_id to);
  void give_up(process_id side, process_id other, const char* why);
  void resolve(process_id from, std::uint64_t request);
  caf::message through_wire(const caf::message& m);

  caf::actor_system& system_;
  event_queue& events_;
  random& chance_;
  trace& trace_;
  process_id last_ = 0;
  std::uint64_t messages_ = 0;
  std::map<process_id, process> processes_;
  std::map<caf::actor_id, process_id> owners_;
  std::map<pair, direction> directions_;    // from, to
  std::map<pair, connection> connections_;  // low, high
};

}  // namespace troupe::simulation
