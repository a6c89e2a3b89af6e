// The one implementation of engine (engine.hpp), in four files by what the calls are about:
// engine.cpp (requests), engine_step.cpp (passes), engine_remote.cpp (prompts computed by a peer),
// engine_report.cpp (stats, invariants).
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/engine.hpp"
#include "engine/kv_cache.hpp"
#include "engine/sampler.hpp"
#include "engine/sampling_plan.hpp"
#include "engine/scheduler.hpp"
#include "engine/sequence.hpp"
#include "engine/speculator.hpp"
#include "engine/step_time_model.hpp"

namespace troupe::engine {

class engine_impl final : public engine {
 public:
  engine_impl(gpu::model_runner& runner, std::unique_ptr<block_sealer> own_sealer,
              const engine_options& options);

  result<void> add(generation_request request, time_point now) override;
  result<remote_reservation> add_remote(generation_request request, time_point now) override;
  pull_plan start_pull(request_id id, attempt try_number, std::uint32_t first_block,
                       std::span<const block_descriptor> remote) override;
  void pull_ended(pull_id id, const std::vector<bool>& ok, std::uint64_t bytes,
                  std::chrono::nanoseconds busy, time_point now) override;
  void remote_first_token(request_id id, attempt try_number, token_output first,
                          time_point now) override;
  void remote_failed(request_id id, attempt try_number, time_point now) override;
  void offer_draft(request_id id, attempt try_number, std::uint32_t first,
                   std::vector<token_id> tokens, std::vector<std::uint8_t> sureness) override;
  void expect_drafts(bool on) override;
  std::vector<running_text> running_texts() const override;
  void cancel(request_id id, time_point now) override;
  void release(request_id id, time_point now) override;
  void renew(request_id id, time_point now) override;
  void offer_blocks(bool on) override;
  result<step_report> step(time_point now) override;
  bool has_work() const override;
  time_point next_deadline() const override;
  engine_stats stats() const override;
  std::string check_invariants() const override;

 private:
  // A pull under way; outlives its request.
  struct pull {
    request_id id{};
    attempt try_number = 0;
    std::uint64_t age =
        0;  // of its sequence, so that a later request of the same id is not taken for it
    struct piece {
      block_id local = 0;
      std::uint32_t table_index = 0;
    };
    std::vector<piece> pieces;
  };

  // engine.cpp
  result<void> check_request(const generation_request& r) const;
  result<std::unique_ptr<sequence>> make_sequence(generation_request&& r, time_point now);
  result<void> follow_format(sequence& s);
  bool advance_format(sequence& s, token_id token);
  void make_room(sequence& s);
  static error format_overflow();
  sequence* find(request_id id) const;
  sequence* find(request_id id, attempt try_number) const;
  bool is_end_token(const sequence& s, token_id t) const;
  void deliver(sequence& s, token_output token);  // may end s
  void finish(sequence& s, finish_reason reason, error failure = {ec::none, {}});
  void finish_if_nothing_to_do(sequence& s);
  void hold(sequence& s);
  void changed(time_point now);
  void watch(const sequence& s);
  void run_watchdogs();

  // engine_step.cpp
  result<void> run_pass(step_report& report);
  void prepare(const std::vector<sequence*>& planned);
  void drop_plan(sequence& s);
  void plan_sampling(sequence& s);
  std::shared_ptr<const structured::token_mask> allowed(sequence& s);
  void plan_guesses(sequence& s, const sample_request& next);
  void plan_chain(const sequence& s, sample_request next, std::span<const token_id> chain,
                  std::uint32_t first, structured::work_budget& work);
  void process(const std::vector<sequence*>& planned, double seconds);
  // first_logit: the row of the pass's output that is the sequence's first.
  void advance(sequence& s, std::uint32_t rows, std::size_t first_logit, double seconds);
  void advance_verified(sequence& s, std::size_t first_logit);
  draft_branch* branch_of(std::vector<draft_branch>& branches, token_id first,
                          std::size_t& logit) const;
  result<void> score_prompt(sequence& s, std::uint32_t first, std::size_t first_logit);
  result<token_output> sampled(std::size_t logit_row, std::uint32_t index);
  void announce(sequence& s, bool last);
  void measure(const step_size& size, const step_report& report, double seconds);
  std::uint32_t logits_wanted(const sequence& s) const;

  // engine_remote.cpp
  void join_if_complete(sequence& s);
  void compute_here(sequence& s);

  // engine_report.cpp
  std::string check_sequence(const sequence& s) const;
  std::string check_references() const;

  gpu::model_runner& runner_;
  engine_options options_;
  std::unique_ptr<block_sealer> own_sealer_;  // where options bring none
  block_sealer* sealer_;
  bool can_seal_;
  kv_cache kv_;
  scheduler scheduler_;
  sampler sampler_;
  speculator speculator_;
  structured::format_cache formats_;
  step_time_model times_;

  std::unordered_map<request_id, std::unique_ptr<sequence>> sequences_;
  std::vector<sequence*> held_;
  std::unordered_map<std::uint64_t, pull> pulls_;  // by pull_id
  std::uint64_t next_age_ = 0, next_pull_ = 1;

  time_point now_{};                            // the latest that any call brought
  time_point next_expiry_ = time_point::max();  // no deadline or lease ends before
  bool stalled_ = false;  // the last plan was empty and nothing has changed since
  events pending_;
  engine_stats counters_;
  double prefill_rows_ = 0, prefill_seconds_ = 0;  // recent ones: the later, the more they count

  std::vector<gpu::sequence_rows> rows_;      // of the pass; kept for its memory
  sampling_plan sampling_;                    // of its rows of logits
  std::span<const gpu::row_sampling> asked_;  // the same, for the device
  gpu::step_output output_;                   // of the pass, while it is processed
  std::vector<sequence*> planned_;
};

}  // namespace troupe::engine
