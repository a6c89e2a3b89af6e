// Which of the waiting requests goes to the nodes next, and which cannot be served in time at all.
//
// Order: the lowest priority number first (vLLM's `priority`); among equals the tenant (API key) that has had the least
// service goes first, measured in tokens (the virtual token counter of "Fairness in Serving Large Language Models",
// OSDI 2024: a tenant that comes back starts at the least counter of those that wait, so idleness is not saved up);
// within a tenant, first come first served.
//
// A request is refused at once when the time that the others need first, at the rate measured lately, is longer than
// max_wait or than its own deadline allows: an early "no" lets the rest keep their deadlines, a late one wastes work.
// The rate is in tokens that were asked for, so that answers that stop early do not mislead it. A request that did not
// wait is never refused: how long an answer may become says little of how long it will.
//
// Owner: the gateway actor. Not thread-safe; the time is a parameter.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace troupe::actors {

struct admission_options {
  std::uint32_t max_waiting = 1024;
  std::chrono::milliseconds max_wait{30'000};
};

class admission_queue {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  using seconds = std::chrono::duration<double>;

  struct ticket {
    std::uint64_t id = 0;
    std::string tenant;
    std::int32_t priority = 0;
    std::uint64_t cost = 0;  // tokens: of the prompt and, at most, of the answer
    time_point deadline;
    time_point entered{};  // enter() sets it
  };
  struct refusal {
    error why;                         // overloaded or queue_full
    std::chrono::seconds retry_after;  // when it may be worth another try; at least one
  };

  explicit admission_queue(const admission_options& options) : options_(options) {}

  // Takes the ticket, unless it is refused. REQUIRES: its id is new.
  std::optional<refusal> enter(ticket t, time_point now);
  // Those that left the queue unserved since the last call: no longer in time, or displaced from a full queue by a
  // better priority.
  std::vector<std::pair<std::uint64_t, error>> take_dropped();
  // The next one to be served; its tenant is charged its cost. Empty: nobody waits.
  std::optional<std::uint64_t> next(time_point now);
  // A served request ended with `used` tokens of its cost, which its tenant is charged; `whole`: its answer came to its
  // own end. False: it was not served, and has left the queue if it waited.
  bool leave(std::uint64_t id, std::uint64_t used, bool whole, time_point now);

  std::size_t waiting() const { return waiting_.size(); }
  std::size_t serving() const { return serving_.size(); }
  double tokens_per_second() const;  // asked for, of what ended lately; 0: not known yet
  seconds predicted_wait(const std::string& tenant, std::int32_t priority) const;

 private:
  struct place {  // the order of one tenant's tickets
    std::int32_t priority;
    std::uint64_t arrival;
    friend auto operator<=>(const place&, const place&) = default;
  };
  struct tenant_state {
    double counter = 0;                     // tokens of service
    std::map<place, std::uint64_t> queue;   // to ids
    std::map<std::int32_t, double> queued;  // cost by priority
    std::uint32_t serving = 0;
  };
  struct served {
    ticket t;
    time_point since;
  };
  using waiting_map = std::map<std::uint64_t, std::pair<ticket, place>>;
  void pass(time_point now);
  void remove_waiting(waiting_map::iterator at);
  void drop(waiting_map::iterator at, const char* why);
  tenant_state* next_tenant();
  double starting_counter(const std::string& tenant) const;  // of its next ticket
  void displace_worst();
  void forget_idle_tenants();
  std::chrono::seconds retry_after(seconds wait) const;
  double service_seconds(std::uint64_t cost) const;
  bool late(const ticket& t, time_point now) const;

  const admission_options options_;
  waiting_map waiting_;
  std::map<std::uint64_t, served> serving_;
  std::map<std::string, tenant_state> tenants_;  // all that wait or are served, and some that were
  std::vector<std::pair<std::uint64_t, error>> dropped_;
  std::uint64_t arrivals_ = 0;
  // Decayed sums over the time in which something was served: tokens of ended requests, seconds; and of the ended
  // requests their seconds of service and how far these were from the mean.
  double work_ = 0, busy_ = 0, service_ = 0, deviation_ = 0;
  double serving_cost_ = 0;
  time_point last_{};
};

}  // namespace troupe::actors
