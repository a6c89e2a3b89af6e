// Which rows the next pass computes. Decodes first; the leftover token budget goes to prompt
// chunks, oldest request first, cut so that a step with decodes stays within the inter-token target
// (Sarathi-Serve, OSDI 2024, with the chunk from a measured step-time model). Chunks end on block
// boundaries, except the last of a prompt.
//
// Nobody starves: order is by age everywhere; a request that needs a block takes it from the
// youngest request that is younger than itself, which starts over later with its tokens kept; when
// nothing at all can run, the oldest waiting request is given the same right.
//
// Owner and thread: one engine. Holds pointers to the engine's sequences, each in exactly one
// queue.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/kv_cache.hpp"
#include "engine/sequence.hpp"
#include "engine/step_time_model.hpp"

namespace troupe::engine {

struct scheduler_options {
  std::uint32_t max_num_seqs = 64;
  std::uint32_t max_num_batched_tokens = 512;
  std::uint32_t max_prefill_chunk = 256;
  double inter_token_target_seconds = 0.05;
};

class scheduler {
 public:
  scheduler(const scheduler_options& options, kv_cache& kv) : options_(options), kv_(kv) {}

  void add_waiting(sequence* s);
  void add_remote(sequence* s);
  void remove(sequence* s);        // from its queue, before it is held or ends
  void remote_ended(sequence* s);  // its prompt's KV is here, or is computed here after all
  // Blocks that new reservations must leave for requests that were here before.
  std::uint32_t blocks_spoken_for() const;

  // Sequences with rows > 0, which the caller sets back to 0 when their pass has ended. Admits and
  // preempts. Valid until the next change. REQUIRES: rows of every sequence are 0.
  const std::vector<sequence*>& plan(const step_time_model& times);

  const std::vector<sequence*>& running() const { return running_; }
  const std::vector<sequence*>& waiting() const { return waiting_; }
  const std::vector<sequence*>& remote() const { return remote_; }
  std::uint64_t preemptions() const { return preemptions_; }

 private:
  void plan_decodes();
  void plan_prompts(const step_time_model& times);
  void admit(std::uint32_t& left);
  bool admit_one(sequence* s, std::uint32_t& left);
  void give_chunk(sequence* s, std::uint32_t& left);
  void force_oldest();
  bool take_blocks(sequence* s);
  sequence* youngest_after(const sequence* s) const;
  void preempt(sequence* s);
  std::uint32_t watermark() const;

  scheduler_options options_;
  kv_cache& kv_;
  std::vector<sequence*> running_, waiting_, remote_;  // by age
  std::vector<sequence*> planned_;
  step_size decodes_;
  std::uint64_t preemptions_ = 0;
};

}  // namespace troupe::engine
