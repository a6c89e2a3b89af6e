// Sums over many schedules: faults by kind, how requests ended, speed.
#pragma once

#include <map>
#include <string>

#include "tests/simulation/world.hpp"

namespace troupe::simulation {

struct tally {
  std::uint64_t schedules = 0, events = 0, messages = 0, requests = 0;
  std::uint64_t answered = 0, failed = 0, canceled = 0, connection_lost = 0, client_gone = 0;
  std::uint64_t migrated = 0, blocks_pulled = 0, fence_failures = 0, leases_expired = 0,
                preemptions = 0, blocks_stored = 0, store_evictions = 0, store_hits = 0,
                store_links = 0, guessed = 0, draft_evictions = 0, drafted = 0, accepted = 0,
                draft_drafted = 0, draft_accepted = 0, branches_won = 0, violations = 0;
  double virtual_seconds = 0;
  std::map<std::string, std::uint64_t> faults, failures, paths;

  void add(const scenario& s, const outcome& o);
  std::string table(double seconds) const;
};

}  // namespace troupe::simulation
