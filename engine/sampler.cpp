#include "engine/sampler.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "engine/philox.hpp"

namespace troupe::engine {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float lowest = std::numeric_limits<float>::lowest();  // leaves masked tokens out
// A temperature so low that only the largest logit can be drawn (vLLM's bound).
constexpr float greedy_below = 1e-5f;

bool changes_logits(const sample_request& r) {
  return !r.params.logit_bias.empty() || r.index < r.params.min_tokens || r.counts != nullptr;
}

}  // namespace

bool uses_penalties(const sampling_params& p) {
  return p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f;
}

sampler::sampler(std::uint32_t vocab_size, const vocab_ops& ops)
    : ops_(ops),
      vocab_size_(vocab_size),
      processed_(vocab_size),
      weights_(vocab_size),
      chunk_max_(num_vocab_chunks(vocab_size)),
      chunk_sum_(num_vocab_chunks(vocab_size)) {}

result<token_output> sampler::sample(std::span<const float> logits, const sample_request& r) {
  TROUPE_ASSERT(logits.size() == vocab_size_);
  if (!scan(logits))
    return fail(ec::internal, "the model produced a logit that is not a finite number");
  token_output out;
  out.index = r.index;
  const bool greedy = r.params.temperature < greedy_below;
  const bool changed = changes_logits(r);
  if (greedy && !changed) {
    out.token = argmax(logits);
    if (r.params.logprobs) add_logprobs(logits, *r.params.logprobs, out);
    return out;
  }
  const std::span<const float> used = changed ? process(logits, r) : logits;
  if (changed) scan(used);
  if (!std::isfinite(max_logit()))
    return fail(ec::internal,
                "no token is left to choose from: penalties, logit_bias or min_tokens exclude all");
  out.token = greedy ? argmax(used) : draw(used, r);
  if (r.params.logprobs) {
    if (changed) scan(logits);
    add_logprobs(logits, *r.params.logprobs, out);
  }
  return out;
}

result<token_output> sampler::score(std::span<const float> logits, token_id token,
                                    std::uint32_t index, std::uint32_t num_top) {
  TROUPE_ASSERT(logits.size() == vocab_size_ && token < vocab_size_);
  if (!scan(logits))
    return fail(ec::internal, "the model produced a logit that is not a finite number");
  token_output out;
  out.index = index;
  out.token = token;
  add_logprobs(logits, num_top, out);
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
        candidates_.push_back({logits[i], static_cast<token_id>(i), weights_[i]});
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
                           token_output& out) {
  const float max = max_logit();
  ops_.exp_weights(logits.data(), logits.size(), max, 1.0f, weights_.data(), chunk_sum_.data());
  const double log_total = fixed_log(total_weight());
  const auto logprob = [&](float logit) {
    return static_cast<float>(std::max(-9999.0, (static_cast<double>(logit) - max) - log_total));
  };
  out.logprob = logprob(logits[out.token]);
  if (num_top == 0) return;
  collect_best(logits, num_top);
  out.top.reserve(candidates_.size());
  for (const candidate& c : candidates_) out.top.push_back({c.token, logprob(c.logit)});
}

std::span<const float> sampler::process(std::span<const float> logits, const sample_request& r) {
  const sampling_params& p = r.params;
  std::copy(logits.begin(), logits.end(), processed_.begin());
  for (const auto& [token, bias] : p.logit_bias) processed_[token] += bias;
  if (r.index < p.min_tokens) {
    for (token_id t : r.end_tokens) processed_[t] = -infinity;
    for (token_id t : p.stop_token_ids) processed_[t] = -infinity;
  }
  if (r.counts == nullptr) return processed_;
  for (const token_counts::entry& e : r.counts->entries()) {
    float& x = processed_[e.token];
    if (p.repetition_penalty != 1.0f)
      x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    if (e.in_output > 0) {
      x -= p.frequency_penalty * static_cast<float>(e.in_output);
      x -= p.presence_penalty;
    }
  }
  return processed_;
}

double sampler::total_weight() const {
  double sum = 0;
  for (double s : chunk_sum_) sum += s;
  return sum;
}

// REQUIRES: scan() of these logits was the last one.
token_id sampler::draw(std::span<const float> logits, const sample_request& r) {
  const sampling_params& p = r.params;
  ops_.exp_weights(logits.data(), logits.size(), max_logit(), 1.0f / p.temperature, weights_.data(),
                   chunk_sum_.data());
  // The most likely token has weight 1, so min_p is a bound on weights.
  const bool limits_k = p.top_k > 0 && p.top_k < vocab_size_;
  if (p.min_p > 0 || limits_k || p.top_p < 1) {
    if (p.min_p > 0)
      ops_.cut_weights(logits.data(), logits.size(), {-infinity, vocab_size_, p.min_p},
                       weights_.data(), chunk_sum_.data());
    if (limits_k || p.top_p < 1) {
      const vocab_cut cut = find_cut(logits, p, p.min_p);
      ops_.cut_weights(logits.data(), logits.size(), cut, weights_.data(), chunk_sum_.data());
    }
  }
  const double u = uniform(p.seed, p.sequence_index, r.position, draw_purpose::token);
  return invert(u * total_weight());
}

vocab_cut sampler::find_cut(std::span<const float> logits, const sampling_params& p,
                            float min_weight) {
  const bool limits_k = p.top_k > 0 && p.top_k < vocab_size_;
  candidate last;
  if (limits_k) {
    collect_best(logits, p.top_k);
    last = candidates_.back();
    if (p.top_p < 1) {
      double total = 0;
      for (const candidate& c : candidates_) total += c.weight;
      last = last_within(candidates_, total * p.top_p);
    }
  } else {
    const double needed = total_weight() * p.top_p;
    collect_weight(logits, needed);
    last = last_within(candidates_, needed);
  }
  return {last.logit, last.token, min_weight};
}

// Candidates from the most likely down that together weigh at least `needed`: the bound on logits
// is lowered until they do, so that a peaked distribution costs a short list.
void sampler::collect_weight(std::span<const float> logits, double needed) {
  const float max = max_logit();
  for (float least_weight : {7e-3f, 5e-5f, 2e-9f}) {
    float least = max;
    for (std::size_t c = 0; c < chunk_max_.size(); ++c) {
      const std::size_t end = std::min(logits.size(), (c + 1) * vocab_chunk);
      if (chunk_sum_[c] < least_weight) continue;
      for (std::size_t i = c * vocab_chunk; i < end; ++i)
        if (weights_[i] >= least_weight && logits[i] < least) least = logits[i];
    }
    collect_from(logits, least);
    double sum = 0;
    for (const candidate& c : candidates_) sum += c.weight;
    if (sum >= needed) return;
  }
  collect_from(logits, lowest);
}

// The last of the shortest run of best candidates that weighs at least `needed`. Candidates are weighed in buckets by
// logit, and only the bucket where the sum is reached is looked into, until it is small enough to sort. When rounding
// leaves the whole below `needed`, the last candidate.
sampler::candidate sampler::last_within(std::span<candidate> c, double needed) const {
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
    std::array<double, few> weight{};
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
    needed -= x.weight;
    if (needed <= 0) return x;
  }
  return c.back();
}

// The first token whose cumulative weight exceeds the target. Rounding of the sums may leave the
// target unreached: then the last token that has a weight.
token_id sampler::invert(double target) const {
  std::size_t chunk = 0, last = 0;
  for (; chunk < chunk_sum_.size(); ++chunk) {
    if (chunk_sum_[chunk] <= 0) continue;
    last = chunk;
    if (target < chunk_sum_[chunk]) break;
    target -= chunk_sum_[chunk];
  }
  const std::size_t begin = last * vocab_chunk;
  const std::size_t end = std::min<std::size_t>(vocab_size_, begin + vocab_chunk);
  std::size_t chosen = begin;
  for (std::size_t i = begin; i < end; ++i) {
    if (weights_[i] <= 0) continue;
    chosen = i;
    if (chunk == chunk_sum_.size()) continue;  // unreached: the last one
    target -= weights_[i];
    if (target < 0) break;
  }
  return static_cast<token_id>(chosen);
}

}  // namespace troupe::engine
