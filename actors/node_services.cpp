#include "actors/node_services.hpp"

namespace troupe::actors {

void local_nodes::add(std::uint64_t start, caf::strong_actor_ptr actor) {
  std::lock_guard lock(mutex_);
  actors_[start] = std::move(actor);
}

caf::strong_actor_ptr local_nodes::find(std::uint64_t start) const {
  std::lock_guard lock(mutex_);
  auto it = actors_.find(start);
  return it == actors_.end() ? nullptr : it->second;
}

node_load node_services::load() const {
  node_load l;
  if (!loop) return load_of_store ? load_of_store() : l;
  const auto s = loop->stats();
  l.running = s.running;
  l.waiting = s.waiting;
  l.waiting_remote = s.waiting_remote;
  l.held = s.held;
  l.waiting_tokens = s.waiting_tokens;
  l.blocks_free = s.blocks_free;
  l.blocks_cached = s.blocks_cached;
  l.blocks_writing = s.blocks_writing;
  l.blocks_sealed = s.blocks_sealed;
  l.blocks_pulling = s.blocks_pulling;
  l.blocks_quarantined = s.blocks_quarantined;
  l.prompt_tokens = s.prefill_tokens;
  l.generated_tokens = s.decode_tokens;
  l.prefill_tokens_per_second = static_cast<std::uint64_t>(s.prefill_tokens_per_second);
  l.decode_step_us = static_cast<std::uint64_t>(s.decode_step_seconds * 1e6);
  l.pull_bytes_per_second = puller ? puller->bytes_per_second() : 0;
  return l;
}

prefix_events node_services::changes(const prefix_events_request& r) const {
  if (!journal) {
    prefix_events nothing;
    nothing.start = info.start;
    return nothing;
  }
  constexpr std::size_t of_one_message = 8192;
  auto page = journal->read(r.next, r.since, of_one_message);
  return {info.start,
          page.first,
          page.next,
          page.since,
          page.reset,
          page.more,
          std::move(page.changes)};
}

std::string node_services::metrics_text() const {
  metrics->update(loop->stats());
  metrics->update_fabric(puller->stats());
  return metrics->text();
}

}  // namespace troupe::actors
