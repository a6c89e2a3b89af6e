// What a draft node does: a small model of the target's vocabulary goes ahead of the target's sequences and says what may
// follow. A plain object over one device: it has no thread and no clock; the shell is actors/driver_loop.
//
// It is told the target's tokens and is ahead of them by what it drafted itself. Told tokens that agree with the drafted
// ones cost nothing; at the first that differs its own are cut off, with their KV. So it heals itself after any loss: the
// ids decide what is kept. It drafts on while the target still verifies, up to `ahead` tokens or to a doubtful one.
//
// Tokens are drawn as the target draws them, with the target's sampling parameters and its random number of the position:
// where both distributions are alike, both choose the same token also at high temperatures.
//
// Owner and thread: one draft loop.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "engine/generation.hpp"
#include "engine/sampler.hpp"
#include "engine/sampling_plan.hpp"
#include "gpu/model_runner.hpp"

namespace troupe::engine {

struct draft_options {
  std::uint32_t num_blocks = 0;  // of the arena that is attached to the runner
  std::uint32_t vocab_size = 0;
  std::uint32_t max_model_len = 0;  // of the draft model: longer sequences are not drafted
  std::uint32_t max_num_seqs = 64;  // rows of different sequences in a pass
  std::uint32_t max_batch_tokens = 512;
  std::uint32_t max_known =
      1024;                  // sequences that are remembered; the least recent one is forgotten
  std::uint32_t ahead = 12;  // tokens beyond the target's
  std::vector<token_id> end_of_generation;
};

// What may follow a sequence: tokens[i] at position first + i.
struct draft_run {
  std::uint64_t key = 0;
  std::uint32_t first = 0;
  std::vector<token_id> tokens;
  std::vector<std::uint8_t> sureness;  // the draft's probability of each, in 255ths
};

struct draft_stats {
  std::uint32_t sequences = 0, blocks_free = 0;
  std::uint64_t passes = 0, prompt_rows = 0, drafted = 0;
  std::uint64_t agreed = 0, cut = 0;  // drafted tokens that the target confirmed, or not
  std::uint64_t evictions = 0;        // sequences whose KV gave way
};

class draft_engine {
 public:
  static result<std::unique_ptr<draft_engine>> make(gpu::model_runner& runner,
                                                    const draft_options& options);

  // How a sequence is sampled; told with its first tokens.
  struct beginning {
    std::uint32_t num_prompt = 0;
    sampling_params sampling;
  };
  // The target's tokens from position `first` on. A position: the sequence is not known from there on, tell it again.
  // ec::invalid_argument: a token out of range, or too many of them.
  result<std::optional<std::uint32_t>> follow(std::uint64_t key, std::uint32_t first,
                                              std::span<const token_id> tokens,
                                              const beginning* start);
  void drop(std::uint64_t key);  // idempotent

  bool has_work() const;
  // One pass; the sequences that got a further token.
  result<std::vector<draft_run>> step();

  draft_stats stats() const;
  // For tests: each sequence as it is. The KV of the first `computed` tokens is in the blocks.
  struct view {
    std::uint64_t key = 0;
    std::span<const token_id> tokens;
    std::uint32_t confirmed = 0, computed = 0;
    std::span<const block_id> table;
  };
  std::vector<view> sequences() const;
  std::string check_invariants() const;  // what is broken, else empty

 private:
  struct sequence {
    std::uint64_t key = 0;
    std::vector<token_id> tokens;        // the target's, then drafted ones
    std::vector<std::uint8_t> sureness;  // of the drafted ones
    std::uint32_t confirmed = 0;         // tokens that are the target's
    std::uint32_t computed = 0;          // tokens whose KV is in the table's blocks
    std::vector<block_id> table;
    beginning start;
    std::uint64_t followed = 0, planned = 0;  // when, in calls
    std::uint32_t rows = 0;                   // of the pass

    std::uint32_t size() const { return static_cast<std::uint32_t>(tokens.size()); }
    std::uint32_t remaining() const { return size() - computed; }
  };

  draft_engine(gpu::model_runner& runner, const draft_options& options);
  bool can_draft(const sequence& s) const;
  void accept(sequence& s, std::uint32_t first, std::span<const token_id> tokens);
  std::vector<sequence*> plan();
  bool grow(sequence& s, std::uint32_t tokens);
  void release(sequence& s);
  void plan_sample(const sequence& s);
  bool draft_one(sequence& s, const gpu::row_sample& sample, const gpu::row_sampling& how);
  void forget_one();

  gpu::model_runner& runner_;
  draft_options options_;
  sampler sampler_;
  sampling_plan sampling_;
  std::uint32_t block_tokens_;
  std::vector<block_id> free_;
  std::unordered_map<std::uint64_t, std::unique_ptr<sequence>> sequences_;
  std::uint64_t clock_ = 0;
  bool stalled_ = false;  // the last plan was empty, and nothing has changed since
  draft_stats stats_;
  std::vector<gpu::sequence_rows> rows_;  // of the pass; kept for its memory
};

}  // namespace troupe::engine
