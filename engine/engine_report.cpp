// What the engine tells about itself.
#include <algorithm>

#include "engine/engine_impl.hpp"

namespace troupe::engine {

engine_stats engine_impl::stats() const {
  engine_stats s = counters_;
  s.running = static_cast<std::uint32_t>(scheduler_.running().size());
  s.waiting = static_cast<std::uint32_t>(scheduler_.waiting().size());
  s.waiting_remote = static_cast<std::uint32_t>(scheduler_.remote().size());
  s.held = static_cast<std::uint32_t>(held_.size());
  for (const auto* queue : {&scheduler_.waiting(), &scheduler_.running()})
    for (const sequence* x : *queue)
      if (x->remaining() > 1) s.waiting_tokens += x->remaining();
  const block_pool& pool = kv_.pool();
  s.blocks_free = pool.count(block_state::free);
  s.blocks_cached = pool.count(block_state::cached);
  s.blocks_writing = pool.count(block_state::writing);
  s.blocks_sealed = pool.count(block_state::sealed);
  s.blocks_pulling = pool.count(block_state::pulling);
  s.blocks_quarantined = pool.count(block_state::quarantined);
  s.preemptions = scheduler_.preemptions();
  s.prefix_queries = kv_.queried_tokens();
  s.prefix_hits = kv_.hit_tokens();
  s.evictions = pool.evictions();
  s.speculation = speculator_.stats();
  return s;
}

std::vector<running_text> engine_impl::running_texts() const {
  std::vector<running_text> out;
  for (const auto& [id, s] : sequences_)
    if (!s->request.prefill_only)
      out.push_back({id, s->request.try_number, s->tokens, s->num_prompt, s->request.sampling});
  return out;
}

std::string engine_impl::check_sequence(const sequence& s) const {
  const std::string name = "request " + std::to_string(raw(s.request.id));
  const block_pool& pool = kv_.pool();
  if (s.num_computed > s.num_tokens()) return name + ": more computed than there are tokens";
  if (s.num_computed > s.table.size() * std::uint64_t{kv_.block_tokens()})
    return name + ": computed tokens without a block";
  if (s.num_announced > s.num_sealed) return name + ": announced blocks that are not sealed";
  if (!s.verify.empty() || !s.branches.empty())
    return name + ": drafts are planned outside of a step";
  if (s.rows != 0) return name + ": rows are planned outside of a step";
  if (s.remote.has_value() != (s.state == sequence_state::waiting_for_remote_kv))
    return name + ": remote prefill does not fit its state";
  if (s.remote) {
    for (std::size_t i = 0; i < s.table.size(); ++i) {
      const block_state state = pool.state(s.table[i]);
      const bool full = (i + 1) * kv_.block_tokens() <= s.num_context;
      if (state != (s.remote->arrived[i] && full ? block_state::sealed : block_state::pulling))
        return name + ": a block of its remote prompt is in the wrong state";
    }
    return {};
  }
  for (std::size_t i = 0; i < s.table.size(); ++i) {
    const block_state expected = i < s.num_sealed ? block_state::sealed : block_state::writing;
    if (pool.state(s.table[i]) != expected)
      return name + ": block " + std::to_string(i) + " of its table is in the wrong state";
  }
  return {};
}

// References, pulls and states as the sequences and pulls explain them.
std::string engine_impl::check_references() const {
  const block_pool& pool = kv_.pool();
  std::vector<std::uint32_t> references(pool.size());
  std::vector<bool> targeted(pool.size());
  for (const auto& [id, s] : sequences_)
    for (block_id b : s->table) ++references[b];
  for (const auto& [id, p] : pulls_)
    for (const pull::piece& piece : p.pieces) {
      if (targeted[piece.local]) return "two pulls target block " + std::to_string(piece.local);
      targeted[piece.local] = true;
    }
  for (block_id b = 0; b < pool.size(); ++b) {
    const std::string name = "block " + std::to_string(b);
    if (references[b] != pool.references(b)) return name + ": references differ from the tables";
    if (targeted[b] != pool.in_flight(b)) return name + ": pulls differ from the block's state";
  }
  return {};
}

std::string engine_impl::check_invariants() const {
  if (auto broken = kv_.pool().check(); !broken.empty()) return broken;
  std::size_t queued = held_.size();
  const auto queues = {std::pair{&scheduler_.running(), sequence_state::running},
                       std::pair{&scheduler_.waiting(), sequence_state::waiting},
                       std::pair{&scheduler_.remote(), sequence_state::waiting_for_remote_kv},
                       std::pair{&held_, sequence_state::held}};
  for (const auto& [queue, state] : queues) {
    if (state != sequence_state::held) {
      queued += queue->size();
      if (!std::is_sorted(queue->begin(), queue->end(),
                          [](auto* a, auto* b) { return a->age < b->age; }))
        return "a queue is not ordered by age";
    }
    for (const sequence* s : *queue)
      if (find(s->request.id) != s || s->state != state)
        return "a queue holds a request that is not in its state";
  }
  if (queued != sequences_.size()) return "a request is in no queue, or in two";
  if (scheduler_.running().size() > options_.max_num_seqs) return "more requests run than allowed";
  for (const auto& [id, s] : sequences_) {
    if (auto broken = check_sequence(*s); !broken.empty()) return broken;
    if (std::min(s->request.deadline, s->lease_end) < next_expiry_)
      return "a deadline is not watched";
  }
  return check_references();
}

}  // namespace troupe::engine
