// From one row of logits to one token, the same bits on every machine.
//
// Order, as in vLLM: logprobs are taken from the model's own logits; then logit_bias, the mask of
// end tokens before min_tokens, penalties (repetition over prompt and output, frequency and
// presence over output); temperature 0 takes the largest logit, the lower token on ties; else
// temperature, min_p, top_k, top_p, and one uniform number through the inverse cumulative
// distribution in token order. Ties at a threshold go to the lower token, so top_k keeps exactly k.
// No full sort: per-chunk maxima bound what can be among the k best, and top_p selects by weight.
//
// Owner: one engine. Not thread-safe; the scratch memory is kept between calls.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "engine/generation.hpp"
#include "engine/token_counts.hpp"
#include "engine/vocab_ops.hpp"

namespace troupe::engine {

// What sampling needs to know of a sequence.
struct sample_request {
  const sampling_params& params;
  std::uint32_t index = 0;     // of the token in the output
  std::uint32_t position = 0;  // of the token in prompt + output
  std::span<const token_id>
      end_tokens;  // impossible before params.min_tokens; the model's, if not ignored
  const token_counts* counts = nullptr;  // nullptr: no penalty is on
};

bool uses_penalties(const sampling_params& p);

class sampler {
 public:
  explicit sampler(std::uint32_t vocab_size, const vocab_ops& ops = best_vocab_ops());

  // ec::internal: a logit is not a finite number, or nothing can be chosen.
  result<token_output> sample(std::span<const float> logits, const sample_request& r);

  // The logprob of a given token and the most likely ones, for prompts.
  result<token_output> score(std::span<const float> logits, token_id token, std::uint32_t index,
                             std::uint32_t num_top);

 private:
  struct candidate {
    float logit = 0;
    token_id token = 0;
    double weight = 0;
  };
  static bool before(const candidate& a, const candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }

  bool scan(std::span<const float> logits);
  float max_logit() const;
  token_id argmax(std::span<const float> logits) const;
  void add_logprobs(std::span<const float> logits, std::uint32_t num_top, token_output& out);
  std::span<const float> process(std::span<const float> logits, const sample_request& r);
  token_id draw(std::span<const float> logits, const sample_request& r);
  void collect_best(std::span<const float> logits, std::size_t k);
  void collect_weight(std::span<const float> logits, double needed);
  void collect_from(std::span<const float> logits, float least);
  candidate last_within(std::span<candidate> c, double needed) const;
  vocab_cut find_cut(std::span<const float> logits, const sampling_params& p, float min_weight);
  double total_weight() const;
  token_id invert(double target) const;

  const vocab_ops& ops_;
  std::uint32_t vocab_size_;
  std::vector<float> processed_, weights_, chunk_max_, order_;
  std::vector<double> chunk_sum_;
  std::vector<candidate> candidates_;
};

}  // namespace troupe::engine
