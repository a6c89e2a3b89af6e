#include "engine/prefix_journal.hpp"

#include <algorithm>

#include "base/result.hpp"

namespace troupe::engine {

void prefix_journal::stored(const hash128_t& hash) {
  std::lock_guard lock(mutex_);
  holding& h = by_key_[key(hash)];
  if (++h.times > 1) return;
  h.sequence = next_++;
  present_.emplace_hint(present_.end(), h.sequence, key(hash));
}

void prefix_journal::removed(const hash128_t& hash) {
  std::lock_guard lock(mutex_);
  const auto at = by_key_.find(key(hash));
  TROUPE_ASSERT(at != by_key_.end());
  if (--at->second.times > 0) return;
  present_.erase(at->second.sequence);
  by_key_.erase(at);
  removed_.emplace_back(next_++, key(hash));
  if (removed_.size() <= removed_limit_) return;
  forgotten_ = removed_.front().first;
  removed_.pop_front();
}

prefix_journal::page prefix_journal::read(std::uint64_t next, std::uint64_t since,
                                          std::size_t limit) const {
  std::lock_guard lock(mutex_);
  page p;
  // A number from the future is another log's.
  p.reset = next == 0 || next > next_ || since > next_ || forgotten_ >= std::max(next, since);
  p.first = p.reset ? 1 : next;
  p.since = p.reset ? next_ : since;
  auto came = present_.lower_bound(p.first);
  // What went before the snapshot began is not in what the follower has.
  auto went = std::ranges::lower_bound(removed_, std::max(p.first, p.since), {},
                                       &std::pair<std::uint64_t, std::uint64_t>::first);
  p.next = p.first;
  while (p.changes.size() < limit && (came != present_.end() || went != removed_.end())) {
    if (went == removed_.end() || (came != present_.end() && came->first < went->first)) {
      p.next = came->first + 1;
      p.changes.push_back(came++->second | 1);
    } else {
      p.next = went->first + 1;
      p.changes.push_back(went++->second);
    }
  }
  p.more = came != present_.end() || went != removed_.end();
  if (!p.more) p.next = next_;
  return p;
}

std::size_t prefix_journal::size() const {
  std::lock_guard lock(mutex_);
  return present_.size();
}

}  // namespace troupe::engine
