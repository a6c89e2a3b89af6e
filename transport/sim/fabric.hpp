// A fabric in one process under virtual time: the same interface as the real one, over a network
// that delays, reorders, drops, corrupts, truncates and whose nodes pause, die and restart, all
// from one seed. Bytes really move between the regions, and they move late: a pull copies while it
// is under way, so an owner that reuses a block too early is seen. One simulator thread owns the
// network and all its fabrics.
//
// The simulator drives it: next_event_time() says when something happens next, advance(t) makes
// everything up to t happen, in an order that depends on the seed only.
#pragma once

#include <memory>
#include <optional>

#include "transport/fabric.hpp"

namespace troupe::transport {

// Probabilities are per pull (corrupt, truncate: per piece), 0 to 1.
struct sim_faults {
  std::chrono::nanoseconds latency_min{20'000},
      latency_max{200'000};  // uniform; so completions reorder
  double gigabytes_per_second = 2.0;
  double drop = 0;      // the pull never progresses: it ends by its deadline
  double corrupt = 0;   // one bit of the copy is flipped and nobody is told
  double truncate = 0;  // the tail of the copy keeps its old bytes and nobody is told
  double late = 0;      // takes up to late_factor times longer
  double late_factor = 20;
  double fail = 0;           // ends with io_error
  double refuse_memory = 0;  // allocate() fails, per call
  double connect_fail = 0;
  // Mutations that break the fabric's own promises, to prove that the layers above or their tests
  // notice.
  double duplicate_completion = 0;  // pull_done is delivered twice
  double write_after_done = 0;      // the copy also lands some time after pull_done was delivered
};

class sim_network {
 public:
  virtual ~sim_network() = default;

  // The node's fabric; its regions live as long as it. Faults of allocation follow `faults()`.
  virtual std::unique_ptr<fabric> make_fabric(incarnation self, event_sink sink) = 0;

  virtual sim_faults& faults() = 0;  // may be changed at any time

  virtual time_point now() const = 0;
  virtual std::optional<time_point> next_event_time() const = 0;
  virtual void advance(time_point to) = 0;  // REQUIRES: to >= now()

  // The node is gone: its memory cannot be read, its peers learn it after `notice` (never, if the
  // peer is silent: then only deadlines end their pulls). Its own fabric object ends its pulls and
  // stays quiet.
  virtual void kill(incarnation node, std::optional<std::chrono::nanoseconds> notice) = 0;
  // A restarted process listens where the dead one did. Readers of the dead one find that out and lose it; they never
  // read the new one's memory instead.
  virtual void succeed(incarnation dead, incarnation next) = 0;
  // Neither serves nor makes progress until `until` (SIGSTOP).
  virtual void pause(incarnation node, time_point until) = 0;
  // Pulls of `reader` from `owner` make no progress while cut (one direction at a time).
  virtual void cut(incarnation reader, incarnation owner, bool is_cut) = 0;

  virtual std::uint64_t events_delivered() const = 0;
  // The pieces of the reader's own memory into which its pulls may still write.
  virtual std::vector<std::span<const std::byte>> targets(incarnation reader) const = 0;
};

std::unique_ptr<sim_network> make_sim_network(std::uint64_t seed, time_point start);

}  // namespace troupe::transport
