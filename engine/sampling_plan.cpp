#include "engine/sampling_plan.hpp"

#include <algorithm>
#include <limits>

#include "engine/philox.hpp"

namespace troupe::engine {
namespace {

// A temperature so low that only the largest logit can be drawn (vLLM's bound).
constexpr float greedy_below = 1e-5f;

}  // namespace

bool uses_penalties(const sampling_params& p) {
  return p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f;
}

void sampling_plan::clear() {
  rows_.clear();
  ranges_.clear();
  edits_.clear();
  masks_.clear();
}

void sampling_plan::add(const sample_request& r) {
  const sampling_params& p = r.params;
  gpu::row_sampling row;
  row.way = p.temperature < greedy_below ? gpu::sampling_way::greedy : gpu::sampling_way::draw;
  row.logprobs = p.logprobs.has_value();
  row.num_top = p.logprobs.value_or(0);
  if (row.way == gpu::sampling_way::draw) {
    row.scale = 1.0f / p.temperature;
    row.top_p = p.top_p;
    row.min_p = p.min_p;
    row.top_k = p.top_k;
    row.random = random_bits(p.seed, p.sequence_index, r.position, draw_purpose::token);
  }
  const std::size_t first = edits_.size();
  const bool only_counts =
      r.counts_stay && r.guesses.empty() && p.logit_bias.empty() && r.index >= p.min_tokens;
  if (only_counts && r.counts != nullptr)
    row.edits = r.counts->penalties(p);  // a long text has thousands, at every step
  else
    add_edits(r);
  if (r.allowed) {
    row.allowed = *r.allowed;
    masks_.push_back(r.allowed);
  }
  rows_.push_back(row);
  ranges_.push_back({first, edits_.size() - first});
}

void sampling_plan::add_score(token_id given, std::uint32_t num_top) {
  gpu::row_sampling row;
  row.way = gpu::sampling_way::score;
  row.given = given;
  row.logprobs = true;
  row.num_top = num_top;
  rows_.push_back(row);
  ranges_.push_back({});
}

void sampling_plan::add_ignored() {
  rows_.push_back({});
  ranges_.push_back({});
}

// The row's edit of the token, new where it has none: first those of counts, in their order, then others.
gpu::logit_edit& sampling_plan::edit(std::size_t first, token_id token,
                                     const token_counts* counts) {
  const std::size_t counted = counts != nullptr ? counts->entries().size() : 0;
  const std::size_t at = counts != nullptr ? counts->index_of(token) : 0;
  if (at < counted) return edits_[first + at];
  if (token >= place_.size()) place_.resize(std::size_t{token} + 1);
  std::size_t& place = place_[token];
  if (place >= first + counted && place < edits_.size() && edits_[place].token == token)
    return edits_[place];
  place = edits_.size();
  edits_.push_back({.token = token});
  return edits_.back();
}

void sampling_plan::add_edits(const sample_request& r) {
  const sampling_params& p = r.params;
  const std::size_t first = edits_.size();
  if (r.counts != nullptr) add_penalties(r);
  for (const auto& [token, bias] : p.logit_bias) edit(first, token, r.counts).bias += bias;
  if (r.index < p.min_tokens) {
    constexpr float never = -std::numeric_limits<float>::infinity();
    for (const token_id t : r.end_tokens) edit(first, t, r.counts).bias = never;
    for (const token_id t : p.stop_token_ids) edit(first, t, r.counts).bias = never;
  }
}

void sampling_plan::add_penalties(const sample_request& r) {
  const auto entries = r.counts->entries();
  const auto known = r.counts->penalties(r.params);
  const std::size_t first = edits_.size();
  edits_.insert(edits_.end(), known.begin(), known.end());
  for (std::size_t i = 0; i < r.guesses.size(); ++i) {
    const token_id token = r.guesses[i];
    const std::size_t at = r.counts->index_of(token);
    const auto so_far = r.guesses.begin() + static_cast<std::ptrdiff_t>(i) + 1;
    const auto guessed = static_cast<std::size_t>(std::count(r.guesses.begin(), so_far, token));
    edit(first, token, r.counts) = token_counts::penalty(
        token, guessed + (at < entries.size() ? entries[at].in_output : 0), r.params);
  }
}

std::span<const gpu::row_sampling> sampling_plan::rows() {
  for (std::size_t i = 0; i < rows_.size(); ++i)
    if (ranges_[i].count > 0)
      rows_[i].edits = std::span(edits_).subspan(ranges_[i].first, ranges_[i].count);
  return rows_;
}

}  // namespace troupe::engine
