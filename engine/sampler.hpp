// From one row of logits to one token, the same bits on every machine: the host's implementation of
// gpu/sampling.hpp, and the words around any implementation.
//
// Order, as in vLLM: logprobs are taken from the model's own logits; then logit_bias, the mask of
// end tokens before min_tokens, penalties (repetition over prompt and output, frequency and
// presence over output); temperature 0 takes the largest logit, the lower token on ties; else
// temperature, min_p, top_k, top_p, and one random number through the inverse cumulative
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
#include "engine/vocab_ops.hpp"
#include "gpu/sampling.hpp"

namespace troupe::engine {

// ec::internal: a logit was not a finite number, or nothing could be chosen.
result<token_output> read_sample(const gpu::row_sample& sample, const gpu::row_sampling& how,
                                 std::uint32_t index);

class sampler {
 public:
  explicit sampler(std::uint32_t vocab_size, const vocab_ops& ops = best_vocab_ops());

  gpu::row_sample sample(std::span<const float> logits, const gpu::row_sampling& how);

 private:
  struct candidate {
    float logit = 0;
    token_id token = 0;
    std::uint64_t weight = 0;  // in weight_unit
  };
  static bool before(const candidate& a, const candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }

  bool scan(std::span<const float> logits);
  float max_logit() const;
  token_id argmax(std::span<const float> logits) const;
  void add_logprobs(std::span<const float> logits, std::uint32_t num_top, gpu::row_sample& out);
  token_id draw(std::span<const float> logits, const gpu::row_sampling& how);
  void collect_best(std::span<const float> logits, std::size_t k);
  void collect_weight(std::span<const float> logits, std::uint64_t needed);
  void collect_from(std::span<const float> logits, float least);
  static std::uint64_t weight_of(std::span<const candidate> c);
  static candidate last_within(std::span<candidate> c, std::uint64_t needed);
  vocab_cut find_cut(std::span<const float> logits, const gpu::row_sampling& how);
  std::uint64_t total_weight() const;
  token_id invert(std::uint64_t target) const;

  const vocab_ops& ops_;
  std::uint32_t vocab_size_;
  std::vector<float> processed_, weights_, chunk_max_, order_;
  std::vector<std::uint64_t> chunk_sum_;
  std::vector<candidate> candidates_;
};

}  // namespace troupe::engine
