// The simulated network: the clock, the queue of events, the nodes and what is wrong between them.
// Private to transport/sim. One thread.
#pragma once

#include <functional>
#include <map>
#include <set>

#include "transport/sim/fabric.hpp"

namespace troupe::transport::sim {

class node;

// Philox would do as well: what matters is that the same seed gives the same numbers everywhere.
class random_source {
 public:
  explicit random_source(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  std::uint64_t below(std::uint64_t n) { return next() % n; }  // n > 0
  double fraction() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  bool chance(double p) { return p > 0 && fraction() < p; }
  std::chrono::nanoseconds between(std::chrono::nanoseconds low, std::chrono::nanoseconds high);

 private:
  std::uint64_t state_;
};

class network final : public sim_network {
 public:
  network(std::uint64_t seed, time_point start) : random(seed), now_(start) {}

  std::unique_ptr<fabric> make_fabric(incarnation self, event_sink sink) override;
  sim_faults& faults() override { return faults_; }
  time_point now() const override { return now_; }
  std::optional<time_point> next_event_time() const override;
  void advance(time_point to) override;
  void kill(incarnation id, std::optional<std::chrono::nanoseconds> notice) override;
  void succeed(incarnation dead, incarnation next) override;
  void pause(incarnation id, time_point until) override;
  void cut(incarnation reader, incarnation owner, bool is_cut) override;
  std::uint64_t events_delivered() const override { return delivered_; }
  std::vector<std::span<const std::byte>> targets(incarnation reader) const override;

  // Runs `action` at t if the node lives then; a paused node does it when it wakes.
  void at(time_point t, incarnation id, std::function<void()> action);
  void after(std::chrono::nanoseconds d, incarnation id, std::function<void()> action) {
    at(now_ + d, id, std::move(action));
  }
  // Latest moment until which no byte moves from owner to reader; now() or earlier: it moves.
  // nullopt: not until something changes (cut, or the owner is dead).
  std::optional<time_point> moves_at(incarnation reader, incarnation owner) const;
  node* find(incarnation id);  // nullptr: dead or never there
  // Who is read when `id` is asked for: the same, unless a mutation takes a place for a start.
  incarnation listening(incarnation id) const;
  void remove(incarnation id);
  void count_delivery() { ++delivered_; }

  random_source random;

 private:
  struct pending {
    incarnation node;
    std::function<void()> action;
  };
  sim_faults faults_;
  time_point now_;
  std::uint64_t sequence_ = 0, delivered_ = 0;
  std::map<std::pair<time_point, std::uint64_t>, pending> events_;
  std::map<incarnation, node*> nodes_;  // those alive
  std::map<incarnation, incarnation> successors_;
  std::map<incarnation, time_point> paused_;
  std::set<std::pair<incarnation, incarnation>> cuts_;
};

}  // namespace troupe::transport::sim
