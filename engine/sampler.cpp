#include "engine/sampler.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

namespace troupe::engine {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float lowest = std::numeric_limits<float>::lowest();  // leaves masked tokens out

}  // namespace

result<token_output> read_sample(const gpu::row_sample& sample, const gpu::row_sampling& how,
                                 std::uint32_t index) {
  if (sample.status == gpu::sample_status::not_finite)
    return fail(ec::internal, "the model produced a logit that is not a finite number");
  if (sample.status == gpu::sample_status::nothing_left)
    return fail(ec::internal,
                "no token is left to choose from: penalties, logit_bias, min_tokens and the form "
                "of the answer exclude all");
  token_output out;
  out.index = index;
  out.token = sample.token;
  if (!how.logprobs) return out;
  const double log_total = fixed_log(static_cast<double>(sample.total) * gpu::weight_unit);
  const auto logprob = [&](float logit) {
    const double distance = static_cast<double>(logit) - sample.largest;
    return static_cast<float>(std::max(-9999.0, distance - log_total));
  };
  out.logprob = logprob(sample.logit);
  for (std::uint32_t i = 0; i < sample.num_top; ++i)
    out.top.push_back({sample.top[i].token, logprob(sample.top[i].logit)});
  return out;
}

sampler::sampler(std::uint32_t vocab_size, const vocab_ops& ops)
    : ops_(ops),
      vocab_size_(vocab_size),
      processed_(vocab_size),
      weights_(vocab_size),
      chunk_max_(num_vocab_chunks(vocab_size)),
      chunk_sum_(num_vocab_chunks(vocab_size)) {}

gpu::row_sample sampler::sample(std::span<const float> logits, const gpu::row_sampling& how) {
  TROUPE_ASSERT(logits.size() == vocab_size_ && how.given < vocab_size_ &&
                how.num_top <= gpu::max_top);
  gpu::row_sample out;
  if (!scan(logits)) {
    out.status = gpu::sample_status::not_finite;
    return out;
  }
  if (how.logprobs) add_logprobs(logits, how.num_top, out);
  std::span<const float> used = logits;
  if (!how.edits.empty() || !how.allowed.empty()) {
    std::copy(logits.begin(), logits.end(), processed_.begin());
    for (const gpu::logit_edit& e : how.edits)
      processed_[e.token] = gpu::edited(processed_[e.token], e);
    for (std::size_t w = 0; w < how.allowed.size(); ++w)
      for (std::uint64_t no = ~how.allowed[w]; no != 0; no &= no - 1) {
        const std::size_t token = w * 64 + static_cast<std::size_t>(std::countr_zero(no));
        if (token < vocab_size_) processed_[token] = -infinity;
      }
    used = processed_;
    scan(used);
  }
  if (how.way == gpu::sampling_way::score) {
    out.token = how.given;
  } else if (!std::isfinite(max_logit())) {
    out.status = gpu::sample_status::nothing_left;
  } else {
    out.token = how.way == gpu::sampling_way::greedy ? argmax(used) : draw(used, how);
  }
  if (how.logprobs) out.logit = logits[out.token];
  return out;
}

bool sampler::scan(std::span<const float> logits) {
  return ops_.scan(logits.data(), logits.size(), chunk_max_.data());
}

float sampler::max_logit() const {
  float best = -infinity;
  for (float m : chunk_max_)
    if (m > best) best = m;
  return best;
}

// REQUIRES: scan() of these logits was the last one.
token_id sampler::argmax(std::span<const float> logits) const {
  std::size_t chunk = 0;
  for (std::size_t c = 1; c < chunk_max_.size(); ++c)
    if (chunk_max_[c] > chunk_max_[chunk]) chunk = c;
  std::size_t i = chunk * vocab_chunk;
  while (logits[i] != chunk_max_[chunk]) ++i;
  return static_cast<token_id>(i);
}

// Every token with a logit of at least `least`; chunk maxima tell where there can be one.
void sampler::collect_from(std::span<const float> logits, float least) {
  candidates_.clear();
  for (std::size_t c = 0; c < chunk_max_.size(); ++c) {
    if (!(chunk_max_[c] >= least)) continue;
    const std::size_t end = std::min(logits.size(), (c + 1) * vocab_chunk);
    for (std::size_t i = c * vocab_chunk; i < end; ++i)
      if (logits[i] >= least)
        candidates_.push_back(
            {logits[i], static_cast<token_id>(i), gpu::weight_units(weights_[i])});
  }
}

// candidates_ = the k best in order. The k-th largest chunk maximum is reached by at least k
// tokens.
void sampler::collect_best(std::span<const float> logits, std::size_t k) {
  float least = lowest;
  if (k <= chunk_max_.size()) {
    order_ = chunk_max_;
    std::nth_element(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(k - 1),
                     order_.end(), std::greater<>());
    least = order_[k - 1];
  }
  collect_from(logits, least);
  k = std::min(k, candidates_.size());
  const auto kth = candidates_.begin() + static_cast<std::ptrdiff_t>(k);
  if (kth != candidates_.end())
    std::nth_element(candidates_.begin(), kth, candidates_.end(), before);
  candidates_.erase(kth, candidates_.end());
  std::sort(candidates_.begin(), candidates_.end(), before);
}

// REQUIRES: scan() of these logits was the last one.
void sampler::add_logprobs(std::span<const float> logits, std::uint32_t num_top,
                           gpu::row_sample& out) {
  out.largest = max_logit();
  ops_.exp_weights(logits.data(), logits.size(), out.largest, 1.0f, weights_.data(),
                   chunk_sum_.data());
  out.total = total_weight();
  if (num_top == 0) return;
  collect_best(logits, num_top);
  out.num_top = static_cast<std::uint32_t>(candidates_.size());
  for (std::uint32_t i = 0; i < out.num_top; ++i)
    out.top[i] = {candidates_[i].token, candidates_[i].logit};
}

std::uint64_t sampler::total_weight() const {
  return std::accumulate(chunk_sum_.begin(), chunk_sum_.end(), std::uint64_t{0});
}

std::uint64_t sampler::weight_of(std::span<const candidate> c) {
  std::uint64_t sum = 0;
  for (const candidate& x : c) sum += x.weight;
  return sum;
}

// REQUIRES: scan() of these logits was the last one.
token_id sampler::draw(std::span<const float> logits, const gpu::row_sampling& how) {
  ops_.exp_weights(logits.data(), logits.size(), max_logit(), how.scale, weights_.data(),
                   chunk_sum_.data());
  // The most likely token has weight 1, so min_p is a bound on weights.
  if (how.min_p > 0)
    ops_.cut_weights(logits.data(), logits.size(), {-infinity, vocab_size_, how.min_p},
                     weights_.data(), chunk_sum_.data());
  if ((how.top_k > 0 && how.top_k < vocab_size_) || how.top_p < 1)
    ops_.cut_weights(logits.data(), logits.size(), find_cut(logits, how), weights_.data(),
                     chunk_sum_.data());
  return invert(gpu::drawn_weight(total_weight(), how.random));
}

vocab_cut sampler::find_cut(std::span<const float> logits, const gpu::row_sampling& how) {
  candidate last;
  if (how.top_k > 0 && how.top_k < vocab_size_) {
    collect_best(logits, how.top_k);
    last = candidates_.back();
    if (how.top_p < 1)
      last = last_within(candidates_, gpu::needed_weight(weight_of(candidates_), how.top_p));
  } else {
    const std::uint64_t needed = gpu::needed_weight(total_weight(), how.top_p);
    collect_weight(logits, needed);
    last = last_within(candidates_, needed);
  }
  return {last.logit, last.token, how.min_p};
}

// Candidates from the most likely down that together weigh at least `needed`: the bound on logits
// is lowered until they do, so that a peaked distribution costs a short list.
void sampler::collect_weight(std::span<const float> logits, std::uint64_t needed) {
  const float max = max_logit();
  for (float least_weight : {7e-3f, 5e-5f, 2e-9f}) {
    const std::uint64_t least_units = gpu::weight_units(least_weight);
    float least = max;
    for (std::size_t c = 0; c < chunk_max_.size(); ++c) {
      const std::size_t end = std::min(logits.size(), (c + 1) * vocab_chunk);
      if (chunk_sum_[c] < least_units) continue;
      for (std::size_t i = c * vocab_chunk; i < end; ++i)
        if (weights_[i] >= least_weight && logits[i] < least) least = logits[i];
    }
    collect_from(logits, least);
    if (weight_of(candidates_) >= needed) return;
  }
  collect_from(logits, lowest);
}

// The last of the shortest run of best candidates that weighs at least `needed`. Candidates are weighed in buckets by
// logit, and only the bucket where the sum is reached is looked into, until it is small enough to sort.
sampler::candidate sampler::last_within(std::span<candidate> c, std::uint64_t needed) {
  constexpr std::size_t few = 256;
  while (c.size() > few) {
    const auto [low, high] = std::minmax_element(
        c.begin(), c.end(),
        [](const candidate& a, const candidate& b) { return a.logit < b.logit; });
    const float top = high->logit;
    const float scale = static_cast<float>(few) / (top - low->logit);
    if (!(scale > 0) || !std::isfinite(scale)) break;  // all equal, or too far apart to tell
    const auto bucket = [&](const candidate& x) {
      return std::min(few - 1, static_cast<std::size_t>((top - x.logit) * scale));
    };
    std::array<std::uint64_t, few> weight{};
    for (const candidate& x : c) weight[bucket(x)] += x.weight;
    std::size_t reached = 0;
    while (reached + 1 < few && weight[reached] < needed) needed -= weight[reached++];
    std::size_t kept = 0;
    for (const candidate& x : c)
      if (bucket(x) == reached) c[kept++] = x;
    TROUPE_ASSERT(kept > 0 && kept < c.size());  // the extremes are in different buckets
    c = c.first(kept);
  }
  std::sort(c.begin(), c.end(), before);
  for (const candidate& x : c) {
    if (x.weight >= needed) return x;
    needed -= x.weight;
  }
  TROUPE_ASSERT(!"the candidates weigh less than what is needed");
  return c.back();
}

// The first token whose cumulative weight exceeds the target, which is below the whole.
token_id sampler::invert(std::uint64_t target) const {
  std::size_t chunk = 0;
  while (target >= chunk_sum_[chunk]) target -= chunk_sum_[chunk++];
  std::size_t i = chunk * vocab_chunk;
  for (std::uint64_t w; target >= (w = gpu::weight_units(weights_[i])); ++i) target -= w;
  return static_cast<token_id>(i);
}

}  // namespace troupe::engine
