// The ledger of a fabric: which regions, peers and pulls exist, and what has been counted. It
// answers callers on any thread without asking the progress thread, so a bad pull is refused at the
// call and costs no round trip. Both fabrics use it. Every function takes the lock for a few
// hundred nanoseconds and calls nobody.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "transport/address.hpp"
#include "transport/fabric.hpp"

namespace troupe::transport {

class ledger {
 public:
  explicit ledger(std::size_t max_pulls) : max_pulls_(max_pulls) {}

  // Regions only appear, in order; `make` gets the next id.
  void add_region(const region& r);
  region_id next_region() const;
  std::optional<region> find_region(region_id id) const;

  // false: already connecting or up with nothing to do. ec::peer_lost: going down.
  result<bool> connecting(incarnation peer, const node_address& address);
  void up(incarnation peer, path via, bool is_slow = false);
  void going_down(incarnation peer);
  void down(incarnation peer, bool by_us);

  // Checks and records a pull; its time starts.
  result<void> admit(const pull_request& request, time_point now);
  void begin(path via, time_point now);  // the pull starts to move bytes on this path
  // Forgets the pull, fills in the duration and counts it. `begun`: begin() was called for it.
  void finish(pull_done& done, bool begun, time_point now);

  void count_forced_close();
  void count_refused(refusal why);
  void close();  // refuses everything from here on
  bool closed() const;
  fabric_stats stats(time_point now) const;

 private:
  struct peer_entry {
    std::vector<std::uint64_t> region_bytes;
    std::vector<memory_kind> region_kinds;
    path via = path::none;
    bool is_slow = false;
    bool going_down = false;
  };
  struct busy_clock {
    std::uint64_t running = 0;
    time_point since{};
  };

  mutable std::mutex mutex_;
  const std::size_t max_pulls_;
  bool closed_ = false;
  std::vector<region> regions_;
  std::map<incarnation, peer_entry> peers_;
  std::unordered_map<std::uint64_t, time_point> pulls_;  // op id: accepted at
  std::map<path, busy_clock> busy_;
  fabric_stats stats_;
};

}  // namespace troupe::transport
