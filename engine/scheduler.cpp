#include "engine/scheduler.hpp"

#include <algorithm>

namespace troupe::engine {
namespace {

// Logits of every row come back for prompt logprobs: their memory, not the device's speed, bounds
// such chunks.
constexpr std::uint32_t max_logprob_rows = 64;

void insert_by_age(std::vector<sequence*>& queue, sequence* s) {
  const auto older = [](const sequence* a, const sequence* b) { return a->age < b->age; };
  queue.insert(std::upper_bound(queue.begin(), queue.end(), s, older), s);
}

void erase(std::vector<sequence*>& queue, sequence* s) {
  const auto at = std::find(queue.begin(), queue.end(), s);
  TROUPE_ASSERT(at != queue.end());
  queue.erase(at);
}

bool has_pull_in_flight(const sequence& s, const block_pool& pool) {
  return std::any_of(s.table.begin(), s.table.end(), [&](block_id b) { return pool.in_flight(b); });
}

}  // namespace

void scheduler::add_waiting(sequence* s) {
  s->state = sequence_state::waiting;
  insert_by_age(waiting_, s);
}

void scheduler::add_remote(sequence* s) {
  s->state = sequence_state::waiting_for_remote_kv;
  insert_by_age(remote_, s);
}

void scheduler::remove(sequence* s) {
  switch (s->state) {
    case sequence_state::waiting:
      return erase(waiting_, s);
    case sequence_state::waiting_for_remote_kv:
      return erase(remote_, s);
    case sequence_state::running:
      return erase(running_, s);
    case sequence_state::held:
      return;
  }
}

void scheduler::remote_ended(sequence* s) {
  erase(remote_, s);
  s->remote.reset();
  add_waiting(s);
}

// With others running, some blocks stay free for their next tokens.
std::uint32_t scheduler::watermark() const {
  return running_.empty() ? 0 : std::max<std::uint32_t>(1, kv_.pool().size() / 100);
}

std::uint32_t scheduler::blocks_spoken_for() const {
  std::uint32_t spoken = watermark();
  if (!waiting_.empty()) {
    const sequence& head = *waiting_.front();
    const std::uint32_t needed = kv_.blocks_for(head.num_tokens());
    spoken +=
        needed - std::min<std::uint32_t>(needed, static_cast<std::uint32_t>(head.table.size()));
  }
  return spoken;
}

const std::vector<sequence*>& scheduler::plan(const step_time_model& times) {
  for (int round = 0; round < 2; ++round) {
    planned_.clear();
    decodes_ = {};
    plan_decodes();
    plan_prompts(times);
    // A prompt's last chunk may have preempted a younger decode that was planned before.
    std::erase_if(planned_, [](const sequence* s) { return s->rows == 0; });
    if (!planned_.empty() || waiting_.empty()) break;
    // Nothing can run. What the oldest waiting request frees may also serve one that runs and is
    // older still.
    if (round == 0) force_oldest();
    if (!planned_.empty()) break;
  }
  return planned_;
}

void scheduler::plan_decodes() {
  // Preemption removes only younger sequences, which lie behind i.
  for (std::size_t i = 0; i < running_.size(); ++i) {
    sequence* s = running_[i];
    if (s->remaining() != 1 || !take_blocks(s)) continue;
    s->rows = 1;
    planned_.push_back(s);
    decodes_.add(1, s->num_computed);
  }
}

void scheduler::plan_prompts(const step_time_model& times) {
  const auto decode_rows = static_cast<std::uint32_t>(planned_.size());
  std::uint32_t left = options_.max_num_batched_tokens - decode_rows;
  if (decode_rows > 0) {
    const auto prompt =
        std::find_if(running_.begin(), running_.end(), [](auto* s) { return s->remaining() > 1; });
    const std::uint32_t context = prompt != running_.end() ? (*prompt)->num_computed : 0;
    const std::uint32_t fit =
        times.rows_within(decodes_, context, options_.inter_token_target_seconds, left);
    left = std::min(left, std::max(fit, kv_.block_tokens()));
  }
  for (std::size_t i = 0; i < running_.size() && left > 0; ++i)
    if (running_[i]->remaining() > 1) give_chunk(running_[i], left);
  if (left > 0) admit(left);
}

// REQUIRES: s has rows to compute. Gives none when not even one block's worth is left.
void scheduler::give_chunk(sequence* s, std::uint32_t& left) {
  const std::uint32_t block = kv_.block_tokens();
  std::uint32_t most = std::min(left, options_.max_prefill_chunk);
  if (s->wants_prompt_logprobs) most = std::min(most, std::max(max_logprob_rows, block));
  std::uint32_t rows = std::min(s->remaining(), most);
  if (rows < s->remaining()) {
    const std::uint32_t end = (s->num_computed + rows) / block * block;
    rows = end - std::min(end, s->num_computed);
  }
  if (rows == 0 || !take_blocks(s)) return;
  s->rows = rows;
  left -= rows;
  planned_.push_back(s);
}

void scheduler::admit(std::uint32_t& left) {
  bool head_is_blocked = false;
  for (std::size_t i = 0;
       i < waiting_.size() && left > 0 && running_.size() < options_.max_num_seqs;) {
    sequence* s = waiting_[i];
    // Behind a request that lacks blocks only those may pass that have all of theirs: nothing is
    // taken from it.
    const bool complete = s->table.size() >= kv_.blocks_for(s->num_tokens());
    if (!complete && left < kv_.block_tokens()) return;
    if ((!head_is_blocked || complete) && admit_one(s, left)) continue;
    head_is_blocked = true;
    ++i;
  }
}

bool scheduler::admit_one(sequence* s, std::uint32_t& left) {
  if (s->table.empty()) {
    if (!kv_.admit(*s, watermark())) return false;
  } else {
    const std::uint32_t needed = kv_.blocks_for(s->num_tokens());
    const auto present = static_cast<std::uint32_t>(s->table.size());
    if (needed > present && kv_.pool().available() < needed - present + watermark()) return false;
    TROUPE_ASSERT(kv_.grow(*s));
  }
  erase(waiting_, s);
  s->state = sequence_state::running;
  s->was_admitted = true;
  insert_by_age(running_, s);
  give_chunk(s, left);
  return true;
}

// The oldest waiting request may take blocks from younger ones; the rest is held by older ones, by
// pulls and by leases, which end by themselves.
void scheduler::force_oldest() {
  sequence* s = waiting_.front();
  std::uint32_t left = options_.max_num_batched_tokens;
  while (running_.size() >= options_.max_num_seqs || !admit_one(s, left)) {
    sequence* victim = youngest_after(s);
    if (victim == nullptr) return;
    preempt(victim);
  }
}

// Blocks for all tokens of a sequence that runs. False: it cannot move now, but keeps what it has.
bool scheduler::take_blocks(sequence* s) {
  while (!kv_.grow(*s)) {
    sequence* victim = youngest_after(s);
    if (victim == nullptr) return false;
    preempt(victim);
  }
  return true;
}

// The youngest request that holds blocks, is younger than s and can let go of them now.
sequence* scheduler::youngest_after(const sequence* s) const {
  sequence* youngest = nullptr;
  const auto consider = [&](const std::vector<sequence*>& queue) {
    for (auto at = queue.rbegin(); at != queue.rend() && (*at)->age > s->age; ++at) {
      if ((*at)->table.empty() || has_pull_in_flight(**at, kv_.pool())) continue;
      if (youngest == nullptr || (*at)->age > youngest->age) youngest = *at;
      return;
    }
  };
  consider(running_);
  consider(waiting_);
  consider(remote_);
  return youngest;
}

void scheduler::preempt(sequence* s) {
  kv_.release(*s);
  s->rows = 0;
  ++s->usage.preemptions;
  ++preemptions_;
  if (s->state == sequence_state::waiting) return;
  remove(s);
  s->remote.reset();
  add_waiting(s);
}

}  // namespace troupe::engine
