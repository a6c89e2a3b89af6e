// The step: watchdogs, plan, one pass, what it brought about.
#include <algorithm>

#include "base/mutation.hpp"
#include "engine/engine_impl.hpp"

namespace troupe::engine {
namespace {

std::uint64_t microseconds(double seconds) {
  return static_cast<std::uint64_t>(seconds * 1e6);
}

// Exponential average; the first value as it is.
void smooth(double& average, double value) {
  average = average == 0 ? value : 0.9 * average + 0.1 * value;
}

}  // namespace

bool engine_impl::has_work() const {
  if (!pending_.empty()) return true;
  return !stalled_ && !(scheduler_.running().empty() && scheduler_.waiting().empty());
}

time_point engine_impl::next_deadline() const {
  return next_expiry_;
}

result<step_report> engine_impl::step(time_point now) {
  now_ = std::max(now_, now);
  run_watchdogs();
  step_report report;
  auto ran = run_pass(report);
  for (sequence* s : planned_) drop_plan(*s);  // left over only where the pass failed
  planned_.clear();
  TROUPE_CHECK(ran);
  TROUPE_CHECK(sealer_->flush());  // before peers hear of the blocks
  report.happened = std::move(pending_);
  pending_ = {};
  return report;
}

// What was planned for a sequence does not come about.
void engine_impl::drop_plan(sequence& s) {
  s.rows = 0;
  s.verify.clear();
  for (draft_branch& b : s.branches) kv_.drop(b);
  s.branches.clear();
}

// Logits that a sequence's rows of this step must return: the last row's where a token follows, and
// all rows of a prompt whose logprobs are wanted.
std::uint32_t engine_impl::logits_wanted(const sequence& s) const {
  if (s.wants_prompt_logprobs || !s.verify.empty()) return s.rows;
  const bool token_follows =
      s.rows == s.remaining() && (s.request.prefill_only || s.request.sampling.max_tokens > 0);
  return token_follows ? 1 : 0;
}

void engine_impl::prepare(const std::vector<sequence*>& planned) {
  planned_.assign(planned.begin(), planned.end());
  rows_.clear();
  sampling_.clear();
  for (sequence* s : planned_) {
    if (!s->was_planned) {
      s->was_planned = true;
      s->usage.queue_us = static_cast<std::uint64_t>(
          std::chrono::duration_cast<std::chrono::microseconds>(now_ - s->queued_since).count());
    }
    const std::span<const token_id> tokens =
        s->verify.empty() ? std::span<const token_id>(s->tokens).subspan(s->num_computed, s->rows)
                          : std::span<const token_id>(s->verify);
    rows_.push_back({tokens, s->num_computed, s->table, logits_wanted(*s)});
    plan_sampling(*s);
    for (const draft_branch& b : s->branches)
      rows_.push_back(
          {b.verify, s->num_computed, b.table, static_cast<std::uint32_t>(b.verify.size()) - 1});
  }
}

// What may come next. Null: the form asks for more work than the answer may cost.
std::shared_ptr<const structured::token_mask> engine_impl::allowed(sequence& s) {
  s.format_work.grant_token();
  make_room(s);
  return s.format->allowed(s.format_state, s.format_work);
}

// What each of the sequence's logits_wanted rows is for.
void engine_impl::plan_sampling(sequence& s) {
  if (logits_wanted(s) == 0) return;
  const sampling_params& p = s.request.sampling;
  sample_request next{p, s.num_output(), s.num_tokens()};
  if (!p.ignore_eos) next.end_tokens = options_.end_of_generation;
  if (s.counts) next.counts = &*s.counts;
  next.counts_stay = true;
  if (s.format) next.allowed = allowed(s);
  if (!s.verify.empty()) return plan_guesses(s, next);
  if (s.wants_prompt_logprobs) {
    for (std::uint32_t at = s.num_computed; at + 1 < s.num_computed + s.rows; ++at) {
      if (at + 1 < s.num_prompt)
        sampling_.add_score(s.tokens[at + 1], *p.prompt_logprobs);
      else
        sampling_.add_ignored();
    }
    const std::uint32_t last = s.num_computed + s.rows - 1;
    if (last + 1 < s.num_prompt) return sampling_.add_score(s.tokens[last + 1], *p.prompt_logprobs);
  }
  sampling_.add(next);
}

// next: what the last token's row is for. To follow a form through guesses has a budget of its own, or those that are rejected
// would count against the answer; where it does not suffice, this step's guesses do not count.
void engine_impl::plan_guesses(sequence& s, const sample_request& next) {
  structured::work_budget work(structured::work_budget::per_token);
  plan_chain(s, next, s.verify, 0, work);
  for (const draft_branch& b : s.branches) plan_chain(s, next, b.verify, 1, work);
  s.guesses_unmasked = work.exceeded();
}

// Rows of the last token and of guesses, from `first` on.
void engine_impl::plan_chain(const sequence& s, sample_request next,
                             std::span<const token_id> chain, std::uint32_t first,
                             structured::work_budget& work) {
  auto state = s.format_state;
  for (std::uint32_t i = 0; i < chain.size(); ++i, ++next.index, ++next.position) {
    next.guesses = chain.subspan(1, i);
    if (s.format && i > 0) {
      state = s.format->next(state, chain[i], work);
      next.allowed = s.format->allowed(state, work);  // none behind a guess that cannot be right
    }
    if (i >= first) sampling_.add(next);
  }
}

result<void> engine_impl::run_pass(step_report& report) {
  const time_point begin = options_.pass_clock();
  const std::vector<sequence*>& plan = scheduler_.plan(times_);
  std::uint32_t rows = 0;
  for (const sequence* s : plan) rows += s->rows;
  speculator_.plan(plan, times_, options_.max_num_batched_tokens - rows);
  prepare(plan);
  stalled_ = planned_.empty();
  if (planned_.empty()) return {};
  step_size size;
  for (const sequence* s : planned_) {
    size.add(s->rows, s->num_computed);
    if (!s->verify.empty()) {
      ++report.decode_rows;
      report.draft_rows += s->rows - 1;
      for (const draft_branch& b : s->branches) {
        const auto more = static_cast<std::uint32_t>(b.verify.size());
        size.add(more, s->num_computed);
        report.draft_rows += more;
      }
      continue;
    }
    (s->remaining() == 1 && s->num_output() > 0 ? report.decode_rows : report.prefill_rows) +=
        s->rows;
  }
  TROUPE_CHECK(sealer_->flush());  // blocks that this pass writes
  const time_point start = options_.pass_clock();
  asked_ = sampling_.rows();
  TROUPE_TRY(output_, runner_.forward({rows_, asked_}));
  const double seconds = std::chrono::duration<double>(options_.pass_clock() - start).count();
  report.worked = true;
  measure(size, report, seconds);
  TROUPE_ASSERT(output_.samples.empty()
                    ? output_.logits.size() == asked_.size() * options_.vocab_size
                    : output_.samples.size() == asked_.size());
  process(planned_, seconds);
  speculator_.observe(report.prefill_rows, report.decode_rows + report.draft_rows,
                      std::chrono::duration<double>(options_.pass_clock() - begin).count());
  return {};
}

void engine_impl::measure(const step_size& size, const step_report& report, double seconds) {
  times_.observe(size, seconds);
  ++counters_.steps;
  counters_.prefill_tokens += report.prefill_rows;
  counters_.decode_tokens += report.decode_rows;
  if (seconds <= 0) return;
  if (report.decode_rows == 0 && report.prefill_rows > 0) {
    // By tokens, not by passes: one of three rows measures the fixed cost of a pass.
    constexpr double remembered = 2048;
    const double kept = remembered / (remembered + report.prefill_rows);
    prefill_rows_ = prefill_rows_ * kept + report.prefill_rows;
    prefill_seconds_ = prefill_seconds_ * kept + seconds;
    counters_.prefill_tokens_per_second = prefill_rows_ / prefill_seconds_;
  }
  if (report.prefill_rows == 0) smooth(counters_.decode_step_seconds, seconds);
}

void engine_impl::process(const std::vector<sequence*>& planned, double seconds) {
  std::size_t logit_row = 0, group = 0;
  for (sequence* planned_one : planned) {
    sequence& s = *planned_one;
    const std::uint32_t rows = s.rows;
    std::size_t logits = 0;
    for (const std::size_t end = group + 1 + s.branches.size(); group < end; ++group)
      logits += rows_[group].num_logits;
    s.rows = 0;
    if (s.format_work.exceeded()) {  // there is no mask, and the token may be any
      drop_plan(s);
      finish(s, finish_reason::error, format_overflow());
    } else if (s.verify.empty()) {  // either may end s
      advance(s, rows, logit_row, seconds);
    } else {
      advance_verified(s, logit_row);
    }
    logit_row += logits;
  }
  planned_.clear();
}

// The token of a row of the pass's output, drawn by the device or here.
result<token_output> engine_impl::sampled(std::size_t logit_row, std::uint32_t index) {
  const gpu::row_sampling& how = asked_[logit_row];
  if (!output_.samples.empty()) return read_sample(output_.samples[logit_row], how, index);
  const auto logits = output_.logits.subspan(logit_row * options_.vocab_size, options_.vocab_size);
  return read_sample(sampler_.sample(logits, how), how, index);
}

// The branch that begins with this token, and where its logits begin behind those of the others.
draft_branch* engine_impl::branch_of(std::vector<draft_branch>& branches, token_id first,
                                     std::size_t& logit) const {
  for (draft_branch& b : branches) {
    if (b.verify[1] == first) return &b;
    logit += b.verify.size() - 1;
  }
  return nullptr;
}

// A pass with drafts: each row's token is sampled as if it were alone, and the next row counts only
// if its token is that one. Where the first token is not the guess but that of a branch, the
// branch's rows count. KV of rejected drafts lies behind num_computed, where it is written again;
// blocks that hold nothing else go back.
void engine_impl::advance_verified(sequence& s, std::size_t first_logit) {
  const request_id id = s.request.id;
  const guess_source source = s.verifies;
  const std::vector<token_id> guesses = std::exchange(s.verify, {});
  std::vector<draft_branch> branches = std::exchange(s.branches, {});
  std::span<const token_id> chain = guesses;
  const draft_branch* won = nullptr;
  std::uint32_t accepted = 0;
  std::size_t logit = first_logit;
  bool runs = true;
  for (bool right = true; runs && right; ++logit) {
    ++s.num_computed;
    kv_.commit(s);
    auto token = sampled(logit, s.num_output());
    if (!token) {
      finish(s, finish_reason::error, std::move(token).error());
      runs = false;
      break;
    }
    right = accepted + 1 < chain.size() && !s.guesses_unmasked &&
            (token->token == chain[accepted + 1] || TROUPE_PLANTED(guess_check_off));
    std::size_t there = first_logit + guesses.size();
    draft_branch* b = accepted == 0 && !right && !s.guesses_unmasked
                          ? branch_of(branches, token->token, there)
                          : nullptr;
    if (b != nullptr) {
      kv_.adopt(s, *b);
      chain = b->verify;
      logit = there - 1;
      won = b;
      right = true;
    }
    if (accepted > 0) ++counters_.decode_tokens;  // the first is counted as a row
    if (right) ++accepted;
    deliver(s, std::move(*token));
    runs = find(id) != nullptr;
  }
  const auto length = [](std::size_t rows) { return static_cast<std::uint32_t>(rows) - 1; };
  speculator_.verified(source, length(guesses.size()), won == nullptr ? accepted : 0);
  for (draft_branch& b : branches) {
    speculator_.verified(b.source, length(b.verify.size()), &b == won ? accepted : 0);
    speculator_.branched(&b == won);
    kv_.drop(b);
  }
  if (runs) kv_.trim(s);
}

// The KV of `rows` more tokens is in place.
void engine_impl::advance(sequence& s, std::uint32_t rows, std::size_t first_logit,
                          double seconds) {
  const bool first_token_pending = s.num_output() == 0 || s.remaining() > 1;
  if (first_token_pending) s.usage.prefill_us += microseconds(seconds);
  const std::uint32_t first = s.num_computed;
  s.num_computed += rows;
  kv_.commit(s);
  const std::size_t last_logit = first_logit + (s.wants_prompt_logprobs ? rows - 1 : 0);
  if (s.wants_prompt_logprobs) {
    if (auto scored = score_prompt(s, first, first_logit); !scored)
      return finish(s, finish_reason::error, std::move(scored).error());
  }
  if (s.remaining() > 0) {
    if (s.request.prefill_only) announce(s, false);
    return;
  }
  if (!s.request.prefill_only && s.request.sampling.max_tokens == 0)
    return finish(s, finish_reason::length);
  auto token = sampled(last_logit, s.num_output());
  if (!token) return finish(s, finish_reason::error, std::move(token).error());
  if (s.request.prefill_only) {
    kv_.seal_last(s);
    announce(s, true);
    deliver(s, std::move(*token));
    hold(s);
  } else {
    deliver(s, std::move(*token));
  }
}

// first: the position whose logits are row first_logit. The row of position p predicts token p + 1.
result<void> engine_impl::score_prompt(sequence& s, std::uint32_t first, std::size_t first_logit) {
  s.prompt_logprobs[0].token = s.tokens[0];
  for (std::uint32_t p = first; p + 1 < s.num_prompt && p < s.num_computed; ++p) {
    TROUPE_TRY(s.prompt_logprobs[p + 1], sampled(first_logit + (p - first), p + 1));
  }
  if (s.num_computed < s.num_prompt) return {};
  s.wants_prompt_logprobs = false;
  pending_.prompt_logprobs.push_back(
      {s.request.id, s.request.try_number, std::move(s.prompt_logprobs)});
  return {};
}

// Tells the reader of blocks that are complete and seals them for it.
void engine_impl::announce(sequence& s, bool last) {
  block_pool& pool = kv_.pool();
  blocks_ready_event e{s.request.id, s.request.try_number, s.num_announced, {}, last};
  for (; s.num_announced < s.num_sealed; ++s.num_announced) {
    const block_id b = s.table[s.num_announced];
    const std::uint32_t end = std::min((s.num_announced + 1) * kv_.block_tokens(), s.num_context);
    e.blocks.push_back({b, pool.generation(b), end - s.num_announced * kv_.block_tokens()});
    pool.write_fence(
        b, tag_of(e.blocks.back(), incarnation{options_.owner_incarnation}, options_.kv_identity));
  }
  if (last || !e.blocks.empty()) pending_.blocks_ready.push_back(std::move(e));
}

}  // namespace troupe::engine
