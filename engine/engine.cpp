#include "engine/engine.hpp"

#include <algorithm>

#include "base/mutation.hpp"
#include "engine/engine_impl.hpp"

namespace troupe::engine {
namespace {

// Device memory without a sealer: no fence is ever valid there, so there is none to invalidate.
class no_sealer final : public block_sealer {
 public:
  void invalidate(block_id) override {}
  void seal(block_id, const transport::block_tag&) override {
    TROUPE_ASSERT(!"prefill_only requests are refused without a sealer");
  }
};

result<void> check_options(const gpu::kv_layout& layout, std::size_t arena_bytes,
                           const engine_options& o) {
  const auto bad = [](const std::string& why) { return fail(ec::invalid_argument, why); };
  if (o.num_blocks == 0) return bad("num_blocks: the KV arena must hold at least one block");
  if (arena_bytes < o.num_blocks * layout.block_bytes())
    return bad("num_blocks: the KV arena is smaller than that many blocks");
  if (o.vocab_size == 0) return bad("vocab_size: must be the model's");
  if (o.max_model_len < 2) return bad("max_model_len: must be at least 2");
  if (o.max_num_seqs == 0) return bad("max_num_seqs: must be at least 1");
  if (o.max_num_batched_tokens < o.max_num_seqs + layout.block_tokens)
    return bad("max_num_batched_tokens: must be at least max_num_seqs + " +
               std::to_string(layout.block_tokens) +
               " (one block), so that prompts move while every sequence decodes");
  if (o.max_prefill_chunk < layout.block_tokens || o.max_prefill_chunk % layout.block_tokens != 0)
    return bad("max_prefill_chunk: must be a multiple of " + std::to_string(layout.block_tokens));
  return {};
}

scheduler_options scheduling(const engine_options& o) {
  return {o.max_num_seqs, o.max_num_batched_tokens, o.max_prefill_chunk,
          std::chrono::duration<double>(o.inter_token_target).count()};
}

}  // namespace

result<std::unique_ptr<engine>> engine::make(gpu::model_runner& runner, std::span<std::byte> arena,
                                             const engine_options& options) {
  const gpu::kv_layout& layout = runner.layout();
  TROUPE_CHECK(check_options(layout, arena.size(), options));
  std::unique_ptr<block_sealer> own;
  if (!options.sealer) {
    if (runner.kv_memory() == gpu::memory_kind::host) {
      own =
          std::make_unique<host_block_sealer>(arena, layout.block_bytes(), layout.payload_bytes());
    } else if (auto device = runner.device_memory()) {
      own = std::make_unique<device_block_sealer>(std::move(device), arena, layout.block_bytes(),
                                                  layout.payload_bytes());
    } else {
      own = std::make_unique<no_sealer>();
    }
  }
  return std::make_unique<engine_impl>(runner, std::move(own), options);
}

engine_impl::engine_impl(gpu::model_runner& runner, std::unique_ptr<block_sealer> own_sealer,
                         const engine_options& options)
    : runner_(runner),
      options_(options),
      own_sealer_(std::move(own_sealer)),
      sealer_(options.sealer ? options.sealer.get() : own_sealer_.get()),
      can_seal_(options.sealer || runner.kv_memory() == gpu::memory_kind::host ||
                runner.device_memory() != nullptr),
      kv_({options.num_blocks, runner.layout().block_tokens, options.prefix_caching,
           options.kv_identity, options.journal},
          *sealer_),
      scheduler_(scheduling(options), kv_),
      sampler_(options.vocab_size),
      speculator_(options.speculation, kv_),
      formats_(options.vocabulary, options.format_bytes) {
  if (!options_.pass_clock) options_.pass_clock = clock::now;
}

result<void> engine_impl::check_request(const generation_request& r) const {
  if (r.prompt.empty()) return fail(ec::invalid_argument, "prompt: must have at least one token");
  for (const auto* tokens : {&r.prompt, &r.output})
    for (token_id t : *tokens)
      if (t >= options_.vocab_size)
        return fail(ec::invalid_argument, "prompt: token " + std::to_string(t) +
                                              " is not below the vocabulary's size, " +
                                              std::to_string(options_.vocab_size));
  TROUPE_CHECK(validate(r.sampling, options_.vocab_size));
  const std::uint64_t to_come =
      r.prefill_only ? r.output.size() + 1
                     : std::max<std::uint64_t>(r.sampling.max_tokens, r.output.size());
  const std::uint64_t total = r.prompt.size() + to_come;
  if (total > options_.max_model_len)
    return fail(ec::context_exceeded, std::to_string(r.prompt.size()) + " prompt tokens and " +
                                          std::to_string(to_come) +
                                          " to generate exceed the context of " +
                                          std::to_string(options_.max_model_len) + " tokens");
  if (kv_.blocks_for(static_cast<std::uint32_t>(total)) > kv_.pool().size())
    return fail(ec::context_exceeded,
                std::to_string(total) + " tokens exceed this node's KV arena of " +
                    std::to_string(kv_.pool().size() * std::uint64_t{kv_.block_tokens()}) +
                    " tokens: --kv-memory makes it larger");
  if (sequences_.contains(r.id))
    return fail(ec::invalid_argument, "request_id: this request is here already");
  if (r.prefill_only && !can_seal_)
    return fail(ec::unsupported,
                "this device's KV arena cannot be read by peers: it has no block sealer");

  const auto& waiting = scheduler_.waiting();
  if (waiting.size() + scheduler_.remote().size() >= options_.max_waiting)
    return fail(ec::queue_full, std::to_string(options_.max_waiting) + " requests are waiting");
  std::uint64_t tokens = r.prompt.size() + r.output.size();
  for (const sequence* s : waiting) tokens += s->remaining();
  if (!waiting.empty() && tokens > options_.max_waiting_tokens)
    return fail(ec::queue_full, std::to_string(tokens) + " prompt tokens would wait");
  return {};
}

// No other node could do it either.
error engine_impl::format_overflow() {
  return {
      ec::unsupported,
      "the form of the answer needs more memory or work to follow than a request may take: nest "
      "less, or bound its repetitions"};
}

// The state that the output so far leads to.
result<void> engine_impl::follow_format(sequence& s) {
  const structured::answer_format& wanted = s.request.sampling.format;
  if (wanted.kind == structured::format_kind::text) return {};
  TROUPE_TRY(s.format, formats_.get(wanted));
  s.format_state = s.format->start(s.format_work);
  bool possible = s.format_state != structured::automaton::dead;
  for (std::size_t i = s.num_prompt; possible && i < s.tokens.size(); ++i) {
    s.format_work.grant_token();  // what the mask was granted where this token was sampled
    possible = advance_format(s, s.tokens[i]);
  }
  if (s.format_work.exceeded()) return tl::unexpected(format_overflow());
  if (!possible)
    return fail(ec::invalid_argument,
                "output: the tokens so far are not of the form of the answer");
  return {};
}

// The state after one token more; whether there is any.
bool engine_impl::advance_format(sequence& s, token_id token) {
  s.format_work.grant_token();
  make_room(s);
  s.format_state = s.format->next(s.format_state, token, s.format_work);
  return s.format_state != structured::automaton::dead;
}

// An automaton that is full gives way to a new one, where only the states count that answers are in. So an answer may be of
// any length, and what others had it remember changes nothing.
void engine_impl::make_room(sequence& s) {
  if (!s.format->full()) return;
  const auto full =
      std::exchange(s.format, formats_.in_place_of(s.request.sampling.format, *s.format));
  s.format_state = s.format->take(*full, s.format_state, s.format_work);
}

result<std::unique_ptr<sequence>> engine_impl::make_sequence(generation_request&& r,
                                                             time_point now) {
  auto s = std::make_unique<sequence>();
  s->num_prompt = static_cast<std::uint32_t>(r.prompt.size());
  s->num_context = static_cast<std::uint32_t>(r.prompt.size() + r.output.size());
  s->tokens = std::move(r.prompt);
  s->tokens.reserve(s->num_context + (r.prefill_only ? 1 : r.sampling.max_tokens));
  s->tokens.insert(s->tokens.end(), r.output.begin(), r.output.end());
  if (uses_penalties(r.sampling)) {
    s->counts.emplace();
    s->counts->add_prompt(std::span(s->tokens).first(s->num_prompt));
    for (token_id t : r.output) s->counts->add_output(t);
  }
  // An earlier attempt that delivered output has delivered these before.
  s->wants_prompt_logprobs = r.sampling.prompt_logprobs.has_value() && r.output.empty();
  if (s->wants_prompt_logprobs) s->prompt_logprobs.resize(s->num_prompt);
  s->request = std::move(r);
  s->request.output.clear();
  s->age = next_age_++;
  s->queued_since = now;
  s->usage.prompt_tokens = s->num_prompt;
  TROUPE_CHECK(follow_format(*s));
  return s;
}

result<void> engine_impl::add(generation_request request, time_point now) {
  TROUPE_CHECK(check_request(request));
  changed(now);
  TROUPE_TRY(auto owned, make_sequence(std::move(request), now));
  sequence& s = *owned;
  sequences_.emplace(s.request.id, std::move(owned));
  scheduler_.add_waiting(&s);
  watch(s);
  finish_if_nothing_to_do(s);
  return {};
}

// A resumed request may have had everything but its end.
void engine_impl::finish_if_nothing_to_do(sequence& s) {
  if (s.request.prefill_only || s.wants_prompt_logprobs) return;
  if (s.num_output() >= s.request.sampling.max_tokens) return finish(s, finish_reason::length);
  if (s.format && s.num_output() > 0 && s.format->only_ends(s.format_state))
    finish(s, finish_reason::stop);
}

sequence* engine_impl::find(request_id id) const {
  const auto at = sequences_.find(id);
  return at == sequences_.end() ? nullptr : at->second.get();
}

sequence* engine_impl::find(request_id id, attempt try_number) const {
  sequence* s = find(id);
  return s != nullptr && s->request.try_number == try_number ? s : nullptr;
}

void engine_impl::changed(time_point now) {
  now_ = std::max(now_, now);
  stalled_ = false;
}

void engine_impl::watch(const sequence& s) {
  next_expiry_ = std::min(next_expiry_, std::min(s.request.deadline, s.lease_end));
}

bool engine_impl::is_end_token(const sequence& s, token_id t) const {
  const auto& model = options_.end_of_generation;
  const auto& stop = s.request.sampling.stop_token_ids;
  return (!s.request.sampling.ignore_eos &&
          std::find(model.begin(), model.end(), t) != model.end()) ||
         std::find(stop.begin(), stop.end(), t) != stop.end();
}

// A token takes its place behind the others and goes out, unless it is the end.
void engine_impl::deliver(sequence& s, token_output token) {
  TROUPE_ASSERT(token.index == s.num_output());
  if (!s.request.prefill_only && is_end_token(s, token.token)) {
    ++s.usage.completion_tokens;
    return finish(s, finish_reason::stop);
  }
  s.tokens.push_back(token.token);
  if (s.counts) s.counts->add_output(token.token);
  // Tokens of one step go out together.
  if (pending_.tokens.empty() || pending_.tokens.back().id != s.request.id ||
      pending_.tokens.back().try_number != s.request.try_number)
    pending_.tokens.push_back({s.request.id, s.request.try_number, {}});
  pending_.tokens.back().tokens.push_back(std::move(token));
  if (s.format && !advance_format(s, s.tokens.back()) && !s.request.prefill_only)
    return finish(s, finish_reason::error, format_overflow());
  if (s.request.prefill_only) return;
  if (s.format && s.format->only_ends(s.format_state)) return finish(s, finish_reason::stop);
  if (s.num_output() >= s.request.sampling.max_tokens) finish(s, finish_reason::length);
}

// Ends a request in whatever state it is. Its blocks go, those under a pull into quarantine.
void engine_impl::finish(sequence& s, finish_reason reason, error failure) {
  if (s.state == sequence_state::held) std::erase(held_, &s);
  if (reason == finish_reason::stop || reason == finish_reason::length) speculator_.ended(s);
  scheduler_.remove(&s);
  kv_.release(s);
  s.usage.completion_tokens += s.num_output();
  pending_.finished.push_back(
      {s.request.id, s.request.try_number, reason, std::move(failure), s.usage});
  sequences_.erase(s.request.id);
  stalled_ = false;
}

void engine_impl::hold(sequence& s) {
  scheduler_.remove(&s);
  s.state = sequence_state::held;
  s.lease_end = TROUPE_PLANTED(lease_off) ? time_point::max() : now_ + options_.lease;
  held_.push_back(&s);
  watch(s);
}

void engine_impl::offer_draft(request_id id, attempt try_number, std::uint32_t first,
                              std::vector<token_id> tokens, std::vector<std::uint8_t> sureness) {
  sequence* s = find(id, try_number);
  if (s == nullptr || !speculator_.enabled()) return;
  const auto nonsense = std::find_if(tokens.begin(), tokens.end(),
                                     [&](token_id t) { return t >= options_.vocab_size; });
  if (!TROUPE_PLANTED(guess_ids_off)) tokens.erase(nonsense, tokens.end());
  speculator_.offer(*s, first, std::move(tokens), std::move(sureness));
}

void engine_impl::expect_drafts(bool on) {
  speculator_.expect_drafts(on);
}

void engine_impl::cancel(request_id id, time_point now) {
  changed(now);
  if (sequence* s = find(id))
    finish(*s, finish_reason::abort, {ec::canceled, "the request was canceled"});
}

void engine_impl::release(request_id id, time_point now) {
  changed(now);
  sequence* s = find(id);
  if (s != nullptr && s->state == sequence_state::held) finish(*s, finish_reason::stop);
}

void engine_impl::renew(request_id id, time_point now) {
  changed(now);
  sequence* s = find(id);
  if (s == nullptr || s->state != sequence_state::held) return;
  s->lease_end = now_ + options_.lease;
  watch(*s);
}

// Every request is looked at, in no order that could hide one behind another.
void engine_impl::run_watchdogs() {
  if (now_ < next_expiry_) return;
  std::vector<sequence*> expired;
  next_expiry_ = time_point::max();
  for (const auto& [id, s] : sequences_) {
    if (s->lease_end <= now_ || s->request.deadline <= now_) {
      expired.push_back(s.get());
    } else {
      watch(*s);
    }
  }
  std::sort(expired.begin(), expired.end(), [](auto* a, auto* b) { return a->age < b->age; });
  for (sequence* s : expired) {
    if (s->lease_end <= now_) {
      ++counters_.leases_expired;
      pending_.leases_expired.push_back({s->request.id, s->request.try_number});
      finish(*s, finish_reason::error,
             {ec::deadline_exceeded, "the lease ended before its blocks were read"});
    } else {
      finish(*s, finish_reason::error, {ec::deadline_exceeded, "the request's deadline passed"});
    }
  }
}

}  // namespace troupe::engine
