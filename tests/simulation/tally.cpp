#include "tests/simulation/tally.hpp"

#include <sstream>

namespace troupe::simulation {

void tally::add(const scenario& s, const outcome& o) {
  ++schedules;
  events += o.events;
  messages += o.messages;
  requests += s.requests.size();
  answered += o.answered;
  failed += o.failed;
  canceled += o.canceled;
  connection_lost += o.connection_lost;
  client_gone += o.client_gone;
  migrated += o.migrated;
  blocks_pulled += o.blocks_pulled;
  fence_failures += o.fence_failures;
  leases_expired += o.leases_expired;
  preemptions += o.preemptions;
  blocks_stored += o.blocks_stored;
  store_evictions += o.store_evictions;
  store_links += o.store_links;
  store_hits += o.store_hits;
  guessed += o.guessed;
  draft_evictions += o.draft_evictions;
  drafted += o.drafted;
  accepted += o.accepted;
  draft_drafted += o.draft_drafted;
  draft_accepted += o.draft_accepted;
  branches_won += o.branches_won;
  violations += o.violation.empty() ? 0 : 1;
  virtual_seconds += static_cast<double>(o.virtual_time.count()) * 1e-3;
  for (const auto& f : s.faults) ++faults[to_string(f.kind)];
  for (const auto& [code, n] : o.failures) failures[code] += n;
  for (const auto& [path, n] : o.paths) paths[path] += n;
}

std::string tally::table(double seconds) const {
  std::ostringstream o;
  o << schedules << " schedules in " << static_cast<long>(seconds * 10) / 10.0 << " s ("
    << static_cast<long>(static_cast<double>(schedules) / seconds) << " a second), "
    << static_cast<long>(virtual_seconds) << " virtual seconds, " << events << " events, "
    << messages << " messages, " << violations << " violations\n"
    << requests << " requests: " << answered << " answered in full (" << migrated
    << " after a migration), " << failed << " typed errors, " << canceled << " canceled, "
    << connection_lost << " lost their server, " << client_gone << " lost their client\n"
    << blocks_pulled << " blocks pulled by requests that ended, " << fence_failures
    << " pieces not verified, " << leases_expired << " leases expired, " << preemptions
    << " preemptions\n"
    << blocks_stored << " blocks taken by stores, " << store_evictions << " evicted there, "
    << store_hits << " requests began with a store's blocks\n"
    << guessed << " tokens guessed by drafts, " << draft_drafted << " of them verified, "
    << draft_accepted << " right; other guesses: " << drafted - draft_drafted << " verified, "
    << accepted - draft_accepted << " right; " << branches_won
    << " second guesses were right\nerrors:";
  for (const auto& [code, n] : failures) o << ' ' << code << ' ' << n;
  o << "\nfaults:";
  for (const auto& [kind, n] : faults) o << ' ' << kind << ' ' << n << ';';
  o << '\n';
  return o.str();
}

}  // namespace troupe::simulation
