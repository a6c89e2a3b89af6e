// How many guessed tokens each decode of a pass carries, so that decoding gets faster and never slower.
//
// A guess is one more row; the pass samples the row before it with that position's own random number, and the guess was
// right if the sample equals it. So the tokens are those of plain decoding, for any seed and any guesses; only the number
// of passes changes. (For a guess that is certain of itself this accepts as often as rejection sampling, Leviathan et al.,
// 2211.17192: with the target's probability of it.)
//
// Where sources disagree about the next token, or the text went on in two ways before, several guesses may be checked in one
// pass: each but the first is a branch, one more group of rows with a copy of the sequence's last block. (A tree of drafts,
// Miao et al., "SpecInfer", 2305.09781, that branches at its root only, so that no attention mask is needed.)
//
// The choice: rows in the order of their chance; of all prefixes the one that gives most tokens a second by measured
// costs; none unless it beats the plain pass by a margin. Beside a prompt's chunk a row must save more than it costs.
//
// Guesses come from the text itself, from earlier answers of the same tenant, and from draft models; those of which more are
// expected to be right come first.
// What a draft model costs beyond its rows (it may share cores or memory with this engine) no row shows, so draft_trial
// compares whole stretches with and without it.
//
// Owner and thread: one engine.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/draft_trial.hpp"
#include "engine/drafts.hpp"
#include "engine/kv_cache.hpp"
#include "engine/pass_costs.hpp"
#include "engine/sequence.hpp"
#include "engine/speculation.hpp"
#include "engine/step_time_model.hpp"

namespace troupe::engine {

class speculator {
 public:
  speculator(const speculation_options& options, kv_cache& kv)
      : options_(options), kv_(kv), history_(options.history_bytes) {}

  bool enabled() const { return options_.enabled && options_.max_tokens > 0; }
  // Adds drafts to the decodes of a pass: their `verify` and `rows`. At most `room` rows.
  void plan(const std::vector<sequence*>& planned, const step_time_model& times,
            std::uint32_t room);
  // A pass that took so long in all had these rows; those of prompts apart.
  void observe(std::uint32_t prompt_rows, std::uint32_t decode_rows, double seconds);
  // So many guesses of a chain were checked, and so many were right.
  void verified(guess_source source, std::uint32_t drafted, std::uint32_t accepted);
  void branched(bool won);
  void ended(const sequence& s);  // its answer is one that others may be like
  void offer(sequence& s, std::uint32_t first, std::vector<token_id> tokens,
             std::vector<std::uint8_t> sureness);
  void expect_drafts(bool on);  // a draft model is there
  const speculation_stats& stats() const { return stats_; }

 private:
  struct candidate {
    float worth;           // chance by row, and not above that of what must be taken before it
    float chance;          // of one token more
    std::uint32_t rows;    // that it needs
    std::uint32_t decode;  // index in decodes_
    std::uint32_t guess;   // index in its guesses
  };
  struct decode {
    sequence* s = nullptr;
    std::vector<guess> guesses;  // the first, and branches
    std::vector<std::uint32_t> taken;
  };

  void begin(sequence& s);
  void collect(const std::vector<sequence*>& planned);
  void add_candidates(std::uint32_t decode, bool with_branches);
  std::size_t best_alone(const step_time_model& times) const;
  std::size_t best_beside_prompts(const step_time_model& times) const;
  void grant(decode& d);
  void note_trial();
  static double row_seconds(const step_time_model& times, const sequence& s);

  speculation_options options_;
  kv_cache& kv_;
  pass_costs costs_;
  hit_rates usual_;
  draft_history history_;
  draft_trial trial_;
  std::uint32_t accepted_in_pass_ = 0;
  std::vector<decode> decodes_;
  std::size_t num_decodes_ = 0;  // in use of decodes_, which keeps its memory
  std::vector<candidate> candidates_;
  speculation_stats stats_;
};

}  // namespace troupe::engine
