#include "transport/ledger.hpp"

namespace troupe::transport {

void ledger::add_region(const region& r) {
  std::lock_guard lock(mutex_);
  TROUPE_ASSERT(raw(r.id) == regions_.size());
  regions_.push_back(r);
}

region_id ledger::next_region() const {
  std::lock_guard lock(mutex_);
  return region_id{static_cast<std::uint32_t>(regions_.size())};
}

std::optional<region> ledger::find_region(region_id id) const {
  std::lock_guard lock(mutex_);
  if (raw(id) >= regions_.size()) return std::nullopt;
  return regions_[raw(id)];
}

result<bool> ledger::connecting(incarnation peer, const node_address& address) {
  std::lock_guard lock(mutex_);
  if (closed_) return fail(ec::canceled, "the transport is closed");
  auto [entry, is_new] = peers_.try_emplace(peer);
  if (!is_new && entry->second.going_down)
    return fail(ec::peer_lost, "the peer is going down; connect again after its peer_down");
  if (!is_new) return false;
  for (const published_region& r : address.regions) {
    entry->second.region_bytes.push_back(r.bytes);
    entry->second.region_kinds.push_back(r.kind);
  }
  return true;
}

void ledger::up(incarnation peer, path via, bool is_slow) {
  std::lock_guard lock(mutex_);
  peer_entry& entry = peers_.at(peer);
  entry.via = via;
  entry.is_slow = is_slow;
}

void ledger::going_down(incarnation peer) {
  std::lock_guard lock(mutex_);
  peers_.at(peer).going_down = true;
}

void ledger::down(incarnation peer, bool by_us) {
  std::lock_guard lock(mutex_);
  peers_.erase(peer);
  if (!by_us) ++stats_.peers_lost;
}

result<void> ledger::admit(const pull_request& request, time_point now) {
  std::lock_guard lock(mutex_);
  if (closed_) return fail(ec::canceled, "the transport is closed");
  if (request.deadline <= now) return fail(ec::deadline_exceeded, "the pull's deadline has passed");
  auto peer = peers_.find(request.peer);
  if (peer == peers_.end()) return fail(ec::not_found, "no such peer is connected");
  if (peer->second.going_down) return fail(ec::peer_lost, "the peer is going down");
  if (raw(request.remote) >= peer->second.region_bytes.size())
    return fail(ec::not_found, "the peer has no region " + std::to_string(raw(request.remote)));
  if (raw(request.local) >= regions_.size())
    return fail(ec::not_found, "no local region " + std::to_string(raw(request.local)));
  TROUPE_CHECK(check_pieces(request, peer->second.region_bytes[raw(request.remote)],
                            regions_[raw(request.local)]));
  if (pulls_.size() >= max_pulls_)
    return fail(ec::queue_full, std::to_string(max_pulls_) + " pulls are under way");
  if (!pulls_.emplace(raw(request.op), now).second)
    return fail(ec::invalid_argument, "a pull with this op id is under way");
  return {};
}

void ledger::begin(path via, time_point now) {
  std::lock_guard lock(mutex_);
  busy_clock& busy = busy_[via];
  if (busy.running++ == 0) busy.since = now;
}

void ledger::finish(pull_done& done, bool begun, time_point now) {
  std::lock_guard lock(mutex_);
  auto entry = pulls_.find(raw(done.op));
  TROUPE_ASSERT(entry != pulls_.end());
  done.duration = now - entry->second;
  pulls_.erase(entry);
  if (begun) {
    busy_clock& busy = busy_[done.via];
    TROUPE_ASSERT(busy.running > 0);
    if (--busy.running == 0)
      stats_.paths[done.via].busy_seconds +=
          std::chrono::duration<double>(now - busy.since).count();
  }
  if (!done.outcome) {
    ++stats_.failures[done.outcome.error().code];
    return;
  }
  path_stats& counts = stats_.paths[done.via];
  ++counts.pulls;
  counts.bytes += done.bytes;
}

void ledger::count_forced_close() {
  std::lock_guard lock(mutex_);
  ++stats_.forced_closes;
}

void ledger::count_refused(refusal why) {
  std::lock_guard lock(mutex_);
  ++stats_.hellos_refused[why];
}

void ledger::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
}

bool ledger::closed() const {
  std::lock_guard lock(mutex_);
  return closed_;
}

fabric_stats ledger::stats(time_point now) const {
  std::lock_guard lock(mutex_);
  fabric_stats copy = stats_;
  for (const auto& [via, busy] : busy_)
    if (busy.running > 0)
      copy.paths[via].busy_seconds += std::chrono::duration<double>(now - busy.since).count();
  for (const auto& [id, entry] : peers_) {
    if (entry.via == path::none || entry.going_down) continue;
    copy.peers[id] = entry.via;
    if (entry.is_slow) ++copy.slow_peers[entry.via];
  }
  copy.pulls_running = pulls_.size();
  return copy;
}

}  // namespace troupe::transport
