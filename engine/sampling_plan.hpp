// What is to become of the rows of logits of a pass: each request's parameters as gpu/sampling.hpp asks for them. Made before
// the pass, for a device that samples needs it; the host's sampler takes the same.
//
// A row of a draft is sampled as if the guesses before it were right, for only then does it count. Owner: one engine; the
// memory is kept between passes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/generation.hpp"
#include "engine/structured/vocabulary.hpp"
#include "engine/token_counts.hpp"
#include "gpu/sampling.hpp"

namespace troupe::engine {

bool uses_penalties(const sampling_params& p);

// What sampling needs to know of a sequence.
struct sample_request {
  const sampling_params& params;
  std::uint32_t index = 0;     // of the token in the output
  std::uint32_t position = 0;  // of the token in prompt + output
  // Impossible before params.min_tokens; the model's, if not ignored.
  std::span<const token_id> end_tokens = {};
  const token_counts* counts = nullptr;  // nullptr: no penalty is on
  // The counts are there until the row is sampled, and change only after it: then nothing is copied.
  bool counts_stay = false;
  std::span<const token_id> guesses = {};  // that come before the token, not counted yet
  std::shared_ptr<const structured::token_mask> allowed = nullptr;  // nullptr: any token
};

class sampling_plan {
 public:
  void clear();
  void add(const sample_request& r);
  void add_score(token_id given, std::uint32_t num_top);
  void add_ignored();  // a row that nobody looks at

  // [rows added]; valid until something is added.
  std::span<const gpu::row_sampling> rows();

 private:
  struct edit_range {
    std::size_t first = 0, count = 0;
  };
  gpu::logit_edit& edit(std::size_t first, token_id token, const token_counts* counts);
  void add_edits(const sample_request& r);
  void add_penalties(const sample_request& r);

  std::vector<gpu::row_sampling> rows_;
  std::vector<edit_range> ranges_;  // of rows_, in edits_; empty: none, or those of its counts
  std::vector<gpu::logit_edit> edits_;
  std::vector<std::size_t>
      place_;  // by token: its latest edit, if that is the row's; else anything
  std::vector<std::shared_ptr<const structured::token_mask>> masks_;  // that rows_ point to
};

}  // namespace troupe::engine
