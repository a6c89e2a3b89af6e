// Prompts whose KV a peer computes: reserve, pull, join; or compute here after all.
#include <algorithm>

#include "base/mutation.hpp"
#include "engine/engine_impl.hpp"

namespace troupe::engine {

result<remote_reservation> engine_impl::add_remote(generation_request request, time_point now) {
  const bool scores_prompt = request.sampling.prompt_logprobs && request.output.empty();
  if ((request.prefill_only && !request.from_store) || scores_prompt)
    return fail(ec::unsupported,
                "prefill_only and prompt_logprobs requests are computed where they are");
  TROUPE_CHECK(check_request(request));
  TROUPE_TRY(auto owned, make_sequence(std::move(request), now));
  sequence& s = *owned;
  if (!kv_.admit_remote(s, scheduler_.blocks_spoken_for()))
    return fail(ec::out_of_memory,
                "KV blocks for " + std::to_string(s.num_context) + " tokens are short now");
  changed(now);
  const auto blocks = static_cast<std::uint32_t>(s.table.size());
  s.was_remote = true;
  s.remote = remote_prefill{s.num_sealed, blocks, std::vector<bool>(blocks), s.num_sealed, {}};
  std::fill_n(s.remote->arrived.begin(), s.num_sealed, true);
  sequences_.emplace(s.request.id, std::move(owned));
  scheduler_.add_remote(&s);
  watch(s);
  const remote_reservation reservation{s.remote->first_block, blocks - s.remote->first_block};
  finish_if_nothing_to_do(s);
  return reservation;
}

pull_plan engine_impl::start_pull(request_id id, attempt try_number, std::uint32_t first_block,
                                  std::span<const block_descriptor> remote) {
  sequence* s = find(id, try_number);
  if (s == nullptr || s->state != sequence_state::waiting_for_remote_kv) return {};
  if (!sealer_->flush()) return {};  // the next pass tells that the device is gone
  block_pool& pool = kv_.pool();
  pull_plan plan;
  pull p{id, try_number, s->age, {}};
  for (std::size_t i = 0; i < remote.size(); ++i) {
    const std::uint64_t index = std::uint64_t{first_block} + i;
    if (index < s->remote->first_block || index >= s->remote->num_blocks) continue;
    const auto at = static_cast<std::uint32_t>(index);
    const block_id local = s->table[at];
    const std::uint32_t valid =
        std::min(kv_.block_tokens(), s->num_context - at * kv_.block_tokens());
    const bool again = pool.in_flight(local) || s->remote->arrived[at];
    if (pool.state(local) != block_state::pulling || remote[i].valid_tokens != valid ||
        (again && !TROUPE_PLANTED(dedup_off)))
      continue;
    pool.begin_pull(local);
    plan.pieces.push_back({remote[i].block, local, remote[i]});
    p.pieces.push_back({local, at});
  }
  if (plan.pieces.empty()) return {};
  plan.id = pull_id{next_pull_};
  pulls_.emplace(next_pull_++, std::move(p));
  return plan;
}

void engine_impl::pull_ended(pull_id id, const std::vector<bool>& ok, std::uint64_t bytes,
                             std::chrono::nanoseconds busy, time_point now) {
  changed(now);
  const auto at = pulls_.find(static_cast<std::uint64_t>(id));
  if (at == pulls_.end()) return;
  const pull p = std::move(at->second);
  pulls_.erase(at);
  for (const pull::piece& piece : p.pieces) kv_.pool().end_pull(piece.local);

  sequence* s = find(p.id, p.try_number);
  const bool wanted =
      s != nullptr && s->age == p.age && s->state == sequence_state::waiting_for_remote_kv;
  bool all_ok = true;
  for (std::size_t i = 0; i < p.pieces.size(); ++i) {
    const bool arrived = i < ok.size() && ok[i];
    if (!arrived) ++counters_.fence_failures;
    all_ok = all_ok && arrived;
    if (!wanted || !arrived) continue;
    kv_.arrived(*s, p.pieces[i].table_index);
    s->remote->arrived[p.pieces[i].table_index] = true;
    ++s->remote->num_arrived;
  }
  if (!wanted) return;
  s->usage.transfer_bytes += bytes;
  s->remote->pulling += busy;
  s->usage.transfer_us = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(s->remote->pulling).count());
  if (all_ok) {
    join_if_complete(*s);
  } else {
    compute_here(*s);
  }
}

void engine_impl::remote_first_token(request_id id, attempt try_number, token_output first,
                                     time_point now) {
  changed(now);
  sequence* s = find(id, try_number);
  // Taken only in its place: not twice, and not after the token was computed here.
  if (s == nullptr || !s->was_remote) return;
  if (first.index != s->num_output() || s->num_tokens() != s->num_context ||
      first.token >= options_.vocab_size)
    return;
  deliver(*s, std::move(first));
  s = find(id, try_number);
  if (s != nullptr && s->state == sequence_state::waiting_for_remote_kv) join_if_complete(*s);
}

void engine_impl::remote_failed(request_id id, attempt try_number, time_point now) {
  changed(now);
  sequence* s = find(id, try_number);
  if (s != nullptr && s->state == sequence_state::waiting_for_remote_kv) compute_here(*s);
}

void engine_impl::offer_blocks(bool on) {
  if (!on || !can_seal_) return kv_.on_computed({});
  kv_.on_computed([this](const sequence& s, std::uint32_t i) {
    const block_id b = s.table[i];
    const std::uint32_t size = kv_.block_tokens();
    const auto tokens = s.block_tokens(i, size);
    const block_descriptor d{b, kv_.pool().generation(b), size};
    kv_.pool().write_fence(
        b, tag_of(d, incarnation{options_.owner_incarnation}, options_.kv_identity));
    pending_.computed.push_back(
        {s.hashes[i],
         i > 0 ? s.hashes[i - 1] : root_hash(options_.kv_identity, s.request.cache_salt),
         s.hashes[0], std::vector<token_id>(tokens.begin(), tokens.end()), i, s.num_context, d});
  });
}

// All blocks and the first token: the sequence decodes from here on.
void engine_impl::join_if_complete(sequence& s) {
  const remote_prefill& r = *s.remote;
  if (r.num_arrived < r.num_blocks || s.num_tokens() == s.num_context) return;
  s.usage.transferred_tokens = s.num_context - r.first_block * kv_.block_tokens();
  kv_.finish_remote(s);
  s.queued_since = now_;
  scheduler_.remote_ended(&s);
}

void engine_impl::compute_here(sequence& s) {
  const std::uint32_t first = s.remote->first_block * kv_.block_tokens();
  kv_.abandon_remote(s);
  const std::uint32_t arrived = s.num_computed - std::min(s.num_computed, first);
  if (s.request.from_store) {
    s.usage.cached_tokens += std::min(arrived, s.num_prompt - std::min(s.num_prompt, first));
  } else {
    s.usage.transferred_tokens = arrived;
  }
  s.queued_since = now_;
  scheduler_.remote_ended(&s);
}

}  // namespace troupe::engine
