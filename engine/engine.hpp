// Continuous batching over one device: requests in, events out. A plain object: it has no thread,
// no clock, no lock; whoever owns it calls it from one thread and passes the time. The shell is
// actors/driver_loop.
//
// A request's states:
//
//   add ──► waiting ──► running ──► finished
//              ▲           │ blocks run out: the youngest is preempted, its blocks freed, its
//              tokens kept └───────────┘
//   add_remote ──► waiting_for_remote_kv ──► running            (all blocks arrived and verified)
//                        └──► waiting                            (remote_failed: the rest is
//                        computed here)
//   prefill_only: running ──► held (lease) ──► finished          (release, or the lease ends)
//
// Blocks of a canceled request whose pull has not ended are quarantined: only pull_ended frees
// them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/hash.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "engine/block_sealer.hpp"
#include "engine/generation.hpp"
#include "engine/prefix_journal.hpp"
#include "engine/speculation.hpp"
#include "engine/structured/compiled_format.hpp"
#include "gpu/model_runner.hpp"

namespace troupe::engine {

struct engine_options {
  std::uint32_t num_blocks = 0;     // size of the arena
  std::uint32_t vocab_size = 0;     // of the model: logits of one row
  std::uint32_t max_model_len = 0;  // prompt and output of a request; at most the model's context
  std::uint32_t max_num_seqs = 64;  // running at once
  // Rows of one step; <= runner_options.max_batch_tokens, >= max_num_seqs and one block.
  std::uint32_t max_num_batched_tokens = 512;
  std::uint32_t max_prefill_chunk =
      256;                          // rows of one prompt in one step: a whole number of blocks
  std::uint32_t max_waiting = 256;  // requests; one more is ec::queue_full
  std::uint64_t max_waiting_tokens =
      1u << 20;  // prompt tokens of all waiting requests; more is ec::queue_full
  // With decodes running, a prefill chunk is made as large as keeps a step within this time by the
  // measured speed.
  std::chrono::microseconds inter_token_target{50'000};
  std::chrono::milliseconds lease{
      30'000};  // how long blocks of a prefill_only request wait for their reader
  bool prefix_caching = true;
  speculation_options speculation;
  std::vector<token_id> end_of_generation;    // of the model
  hash128_t kv_identity;                      // seeds block hashes
  std::uint64_t owner_incarnation = 0;        // goes into fences
  std::shared_ptr<prefix_journal> journal{};  // follows the prefix cache; may be null
  // Writes fences; nullptr: by the host, or by the runner's device_memory(). A device's arena with
  // neither serves no prefill_only requests.
  std::shared_ptr<block_sealer> sealer;
  // Measures passes for the chunk size, nothing else; empty: the steady clock. A simulation passes
  // its own.
  std::function<time_point()> pass_clock;
  // The bytes of tokens, for answers of a given form; empty: such requests are refused.
  structured::vocabulary_source vocabulary;
  std::size_t format_bytes = structured::automaton::usual_bytes;  // of one form's automaton
};

// A block as its owner describes it to a reader; with it the reader can tell whether what it pulled
// is what was meant. The fence to expect: tag_of(descriptor, owner, kv_identity).
struct block_descriptor {
  block_id block = 0;
  std::uint64_t generation = 0;  // of the block: grows each time the block is written anew
  std::uint32_t valid_tokens = 0;
};
inline transport::block_tag tag_of(const block_descriptor& d, incarnation owner,
                                   const hash128_t& kv_identity) {
  return {owner, d.generation, fence_layout(kv_identity), d.valid_tokens};
}

// -- events: what a call or a step brought about
// ---------------------------------------------------------------------- Each list is in order; of
// one request, handle prompt_logprobs before tokens before blocks_ready before leases_expired
// before finished.
struct tokens_event {
  request_id id{};
  attempt try_number = 0;
  std::vector<token_output> tokens;  // consecutive indices
};
struct prompt_logprobs_event {  // before the first tokens_event; entry 0 has no logprob
  request_id id{};
  attempt try_number = 0;
  std::vector<token_output> tokens;  // index = position in the prompt
};
struct blocks_ready_event {  // prefill_only: sealed blocks, in prompt order
  request_id id{};
  attempt try_number = 0;
  std::uint32_t first_block = 0;  // index in the request's block table
  std::vector<block_descriptor> blocks;
  bool last = false;
};
// Exactly one per added request, the last of its events. A prefill_only request ends with `stop`
// when it was released and with error deadline_exceeded when its lease ended first.
struct finished_event {
  request_id id{};
  attempt try_number = 0;
  finish_reason reason = finish_reason::none;
  error failure;  // reason == error or abort
  generation_usage usage;
};
struct lease_expired_event {
  request_id id{};
  attempt try_number = 0;
};
// A full block that was computed here, for a KV store to pull: sealed, and good while nothing else
// needs the block. Only under offer_blocks.
struct computed_block {
  hash128_t hash, parent,
      first;  // chained: its own, the one's before it (or root_hash), the first's
  std::vector<token_id> tokens;
  std::uint32_t index = 0;          // in its sequence
  std::uint64_t prompt_tokens = 0;  // of that sequence
  block_descriptor block;
};
struct events {
  std::vector<tokens_event> tokens;
  std::vector<prompt_logprobs_event> prompt_logprobs;
  std::vector<blocks_ready_event> blocks_ready;
  std::vector<finished_event> finished;
  std::vector<lease_expired_event> leases_expired;
  std::vector<computed_block> computed;
  bool empty() const {
    return tokens.empty() && prompt_logprobs.empty() && blocks_ready.empty() && finished.empty() &&
           leases_expired.empty() && computed.empty();
  }
};

// -- remote prefill: which local blocks the reader is to fill
// ----------------------------------------------------------
struct remote_reservation {
  std::uint32_t first_block = 0;  // blocks before it are already here (prefix cache)
  std::uint32_t num_blocks = 0;   // of the prompt, from first_block on
};
enum class pull_id : std::uint64_t {};
struct pull_piece {
  block_id remote = 0;
  block_id local = 0;
  block_descriptor expected;
};
struct pull_plan {
  pull_id id{};
  std::vector<pull_piece> pieces;
};

// A request whose tokens a draft model may follow.
struct running_text {
  request_id id{};
  attempt try_number = 0;
  std::vector<token_id> tokens;  // prompt and output
  std::uint32_t num_prompt = 0;
  sampling_params sampling;
};

// A snapshot for heartbeats, metrics and routing.
struct engine_stats {
  std::uint32_t running = 0, waiting = 0, waiting_remote = 0, held = 0;
  std::uint64_t waiting_tokens = 0;  // prompt tokens not computed yet
  // Blocks by state; the sum is num_blocks at every moment.
  std::uint32_t blocks_free = 0, blocks_cached = 0, blocks_writing = 0, blocks_sealed = 0,
                blocks_pulling = 0, blocks_quarantined = 0;
  std::uint64_t steps = 0, prefill_tokens = 0, decode_tokens = 0, preemptions = 0;
  std::uint64_t prefix_queries = 0, prefix_hits = 0;  // in tokens
  std::uint64_t evictions = 0, leases_expired = 0;
  std::uint64_t fence_failures = 0;  // pieces of pulls that did not arrive verified
  speculation_stats speculation;
  double prefill_tokens_per_second = 0;  // measured, smoothed
  double decode_step_seconds = 0;
};

struct step_report {
  bool worked = false;                              // a pass ran
  std::uint32_t prefill_rows = 0, decode_rows = 0;  // decode_rows without drafts
  std::uint32_t draft_rows = 0;
  events happened;
};

class engine {
 public:
  // `arena` holds options.num_blocks blocks of runner.layout() and is attached to the runner
  // already.
  static result<std::unique_ptr<engine>> make(gpu::model_runner& runner, std::span<std::byte> arena,
                                              const engine_options& options);
  virtual ~engine() = default;

  // ec::queue_full, context_exceeded, invalid_argument (empty prompt, token out of range, same id
  // twice).
  virtual result<void> add(generation_request request, time_point now) = 0;

  // Like add, but the prompt's KV comes from a peer: blocks for it are reserved. ec::out_of_memory
  // when blocks are short now or promised to older requests: the caller adds it as local instead.
  // ec::unsupported: prompt_logprobs and prefill_only requests are computed where they are.
  virtual result<remote_reservation> add_remote(generation_request request, time_point now) = 0;
  // The peer announced sealed blocks [first_block, ...) of the request's table. Duplicates, blocks
  // that are here or under way, and announcements that do not fit are left out. Empty plan: nothing
  // to pull, or the request is gone (ended, another attempt, or computed here by now); no
  // pull_ended must follow.
  virtual pull_plan start_pull(request_id id, attempt try_number, std::uint32_t first_block,
                               std::span<const block_descriptor> remote) = 0;
  // The pull ended and nothing of it is in flight any more. ok[i]: piece i arrived and its fence
  // matched. A piece that did not has the effect of remote_failed, so retry before calling this.
  // `busy` is the time that the link took for it. Unknown and ended pulls are ignored.
  virtual void pull_ended(pull_id id, const std::vector<bool>& ok, std::uint64_t bytes,
                          std::chrono::nanoseconds busy, time_point now) = 0;
  // The first token, sampled by the peer; its index must be the next. Emitted as a tokens_event by
  // the next step, also when the prompt is computed here by now. Duplicates are ignored.
  virtual void remote_first_token(request_id id, attempt try_number, token_output first,
                                  time_point now) = 0;
  // The peer died, refused or is late: what has arrived in order is kept, the rest is computed
  // here.
  virtual void remote_failed(request_id id, attempt try_number, time_point now) = 0;

  // Tokens that a draft model expects: tokens[i] at position first + i of prompt and output. They
  // are only guesses: any may be wrong, late or nonsense, the answer is the same. The first one
  // outside of the vocabulary ends the offer; offers for requests that are gone are ignored.
  // sureness[i]: the draft's probability of tokens[i], in 255ths; empty: it does not tell.
  virtual void offer_draft(request_id id, attempt try_number, std::uint32_t first,
                           std::vector<token_id> tokens,
                           std::vector<std::uint8_t> sureness = {}) = 0;
  // A draft model can be asked from now on (or no more). While it can,
  // stats().speculation.draft_wanted says whether its guesses are worth asking for: they are tried
  // for some passes, and go on only while the node decodes faster with them.
  virtual void expect_drafts(bool on) = 0;
  // All that generate here, for a draft model that comes later. Tokens of events that were not
  // returned yet are among them.
  virtual std::vector<running_text> running_texts() const = 0;

  virtual void cancel(request_id id,
                      time_point now) = 0;  // idempotent; ends in finished_event(abort)
  virtual void release(request_id id, time_point now) = 0;  // ends a held lease; idempotent
  virtual void renew(request_id id, time_point now) = 0;    // restarts a held lease

  // From now on (or no more), full blocks computed here are sealed and reported in events::computed.
  virtual void offer_blocks(bool on) = 0;

  // Runs one pass if there is work, and every watchdog whether or not there is.
  virtual result<step_report> step(time_point now) = 0;
  virtual bool has_work() const = 0;             // a step now would run a pass or deliver events
  virtual time_point next_deadline() const = 0;  // when step must be called even without work

  virtual engine_stats stats() const = 0;
  // Every block in exactly one state, reference counts agree with tables; a text of what is broken,
  // else empty.
  virtual std::string check_invariants() const = 0;
};

}  // namespace troupe::engine
