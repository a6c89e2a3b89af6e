#include "engine/draft_engine.hpp"

#include <algorithm>
#include <cmath>

#include "base/mutation.hpp"

namespace troupe::engine {
namespace {

constexpr double least_chance = 0.1;        // of a run: what follows is hardly ever used
constexpr std::uint32_t prompt_rows = 256;  // of a pass beside sequences that draft

}  // namespace

result<std::unique_ptr<draft_engine>> draft_engine::make(gpu::model_runner& runner,
                                                         const draft_options& o) {
  if (o.num_blocks == 0 || o.vocab_size == 0 || o.max_model_len < 2 || o.max_num_seqs == 0 ||
      o.ahead == 0 || o.max_batch_tokens < o.max_num_seqs)
    return fail(ec::invalid_argument,
                "a draft needs blocks, a vocabulary, a context, and a batch of at least "
                "max_num_seqs tokens");
  return std::unique_ptr<draft_engine>(new draft_engine(runner, o));
}

draft_engine::draft_engine(gpu::model_runner& runner, const draft_options& options)
    : runner_(runner),
      options_(options),
      sampler_(options.vocab_size),
      block_tokens_(runner.layout().block_tokens) {
  for (block_id b = options.num_blocks; b > 0; --b) free_.push_back(b - 1);
}

result<std::optional<std::uint32_t>> draft_engine::follow(std::uint64_t key, std::uint32_t first,
                                                          std::span<const token_id> tokens,
                                                          const beginning* start) {
  if (std::any_of(tokens.begin(), tokens.end(),
                  [&](token_id t) { return t >= options_.vocab_size; }))
    return fail(ec::invalid_argument, "a token is not in the draft's vocabulary");
  if (std::uint64_t{first} + tokens.size() > options_.max_model_len) {
    drop(key);  // beyond the draft's context
    return std::optional<std::uint32_t>();
  }
  auto at = sequences_.find(key);
  if (at == sequences_.end()) {
    if (first > 0 || start == nullptr) return std::optional<std::uint32_t>(0);
    TROUPE_CHECK(validate(start->sampling, options_.vocab_size));
    if (sequences_.size() >= options_.max_known) forget_one();
    auto made = std::make_unique<sequence>();
    made->key = key;
    made->start = *start;
    made->start.sampling.logprobs = 0;
    made->start.sampling.prompt_logprobs.reset();
    at = sequences_.emplace(key, std::move(made)).first;
  }
  sequence& s = *at->second;
  s.followed = ++clock_;
  stalled_ = false;
  if (first > s.confirmed) return std::optional<std::uint32_t>(s.confirmed);
  accept(s, first, tokens);
  return std::optional<std::uint32_t>();
}

// What differs is cut off, with all that was built on it.
void draft_engine::accept(sequence& s, std::uint32_t first, std::span<const token_id> tokens) {
  const auto end = first + static_cast<std::uint32_t>(tokens.size());
  std::uint32_t p = first;
  while (p < end && p < s.size() && s.tokens[p] == tokens[p - first]) ++p;
  if (p < end) {
    stats_.cut += s.size() - std::max(p, std::min(s.confirmed, s.size()));
    s.tokens.resize(std::min(p, s.size()));
    s.tokens.insert(s.tokens.end(), tokens.begin() + (p - first), tokens.end());
    s.computed = std::min(s.computed, TROUPE_PLANTED(draft_cut_off) ? s.size() - 1 : p);
    stats_.agreed += p > s.confirmed ? p - s.confirmed : 0;
    s.confirmed = end;
    s.sureness.clear();
    return;
  }
  if (end <= s.confirmed) return;
  const std::uint32_t agreed = end - s.confirmed;
  stats_.agreed += agreed;
  s.sureness.erase(s.sureness.begin(), s.sureness.begin() + agreed);
  s.confirmed = end;
}

void draft_engine::drop(std::uint64_t key) {
  auto at = sequences_.find(key);
  if (at == sequences_.end()) return;
  release(*at->second);
  sequences_.erase(at);
  stalled_ = false;
}

void draft_engine::release(sequence& s) {
  free_.insert(free_.end(), s.table.begin(), s.table.end());
  s.table.clear();
  s.computed = 0;
}

void draft_engine::forget_one() {
  const auto oldest = std::min_element(
      sequences_.begin(), sequences_.end(),
      [](const auto& a, const auto& b) { return a.second->followed < b.second->followed; });
  drop(oldest->first);
}

bool draft_engine::can_draft(const sequence& s) const {
  if (s.confirmed == 0 || s.size() - s.confirmed >= options_.ahead) return false;
  if (s.size() >=
      std::min<std::uint64_t>(options_.max_model_len,
                              std::uint64_t{s.start.num_prompt} + s.start.sampling.max_tokens))
    return false;
  const auto& ends = options_.end_of_generation;
  if (s.size() > s.confirmed && !s.start.sampling.ignore_eos &&
      std::find(ends.begin(), ends.end(), s.tokens.back()) != ends.end())
    return false;
  double chance = 1;
  for (const std::uint8_t c : s.sureness) chance *= c / 255.0;
  return chance >= least_chance;
}

bool draft_engine::has_work() const {
  return !stalled_ && std::any_of(sequences_.begin(), sequences_.end(),
                                  [&](const auto& s) { return can_draft(*s.second); });
}

// Blocks for so many tokens, taken from the sequence that was told of least recently and is not in this pass.
bool draft_engine::grow(sequence& s, std::uint32_t tokens) {
  const std::uint32_t needed = (tokens + block_tokens_ - 1) / block_tokens_;
  if (needed > options_.num_blocks) return false;
  while (s.table.size() < needed) {
    if (free_.empty()) {
      sequence* victim = nullptr;
      for (auto& [key, other] : sequences_)
        if (other.get() != &s && other->rows == 0 && !other->table.empty() &&
            (victim == nullptr || other->followed < victim->followed))
          victim = other.get();
      if (victim == nullptr || victim->followed > s.followed) return false;
      release(*victim);
      ++stats_.evictions;
    }
    s.table.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

// Sequences that draft first, then texts to read; who waited longest is first in both.
std::vector<draft_engine::sequence*> draft_engine::plan() {
  std::vector<sequence*> ready, planned;
  for (auto& [key, s] : sequences_)
    if (can_draft(*s)) ready.push_back(s.get());
  std::sort(ready.begin(), ready.end(), [](const sequence* a, const sequence* b) {
    const bool reads_a = a->remaining() > 1, reads_b = b->remaining() > 1;
    if (reads_a != reads_b) return reads_b;
    return a->planned != b->planned ? a->planned < b->planned : a->key < b->key;
  });
  std::uint32_t left = options_.max_batch_tokens;
  for (sequence* s : ready) {
    if (left == 0 || planned.size() >= options_.max_num_seqs) break;
    if (!planned.empty()) left = std::min(left, prompt_rows);
    const std::uint32_t rows = std::min(s->remaining(), left);
    if (!grow(*s, s->computed + rows)) continue;
    s->rows = rows;
    s->planned = ++clock_;
    left -= rows;
    planned.push_back(s);
  }
  return planned;
}

// The counts are made anew each time: drafted tokens come and go.
void draft_engine::plan_sample(const sequence& s) {
  const sampling_params& p = s.start.sampling;
  const std::uint32_t prompt = std::min(s.start.num_prompt, s.size());
  token_counts counts;
  if (uses_penalties(p)) {
    counts.add_prompt(std::span(s.tokens).first(prompt));
    for (std::uint32_t i = prompt; i < s.size(); ++i) counts.add_output(s.tokens[i]);
  }
  sampling_.add({p, s.size() - prompt, s.size(),
                 p.ignore_eos ? std::span<const token_id>()
                              : std::span<const token_id>(options_.end_of_generation),
                 uses_penalties(p) ? &counts : nullptr});
}

bool draft_engine::draft_one(sequence& s, const gpu::row_sample& sample,
                             const gpu::row_sampling& how) {
  const auto token = read_sample(sample, how, 0);
  if (!token) return false;
  s.tokens.push_back(token->token);
  const double probability = std::exp(std::min(0.0, static_cast<double>(token->logprob)));
  s.sureness.push_back(static_cast<std::uint8_t>(std::lround(probability * 255)));
  ++stats_.drafted;
  return true;
}

result<std::vector<draft_run>> draft_engine::step() {
  std::vector<draft_run> runs;
  const auto planned = plan();
  stalled_ = planned.empty();
  if (stalled_) return runs;
  rows_.clear();
  sampling_.clear();
  for (const sequence* s : planned) {
    const bool whole = s->rows == s->remaining();
    rows_.push_back({std::span(s->tokens).subspan(s->computed, s->rows), s->computed, s->table,
                     whole ? 1u : 0u});
    if (whole) plan_sample(*s);
  }
  const auto how = sampling_.rows();
  const auto out = runner_.forward({rows_, how});
  ++stats_.passes;
  std::size_t i = 0;
  for (sequence* s : planned) {
    const std::uint32_t rows = std::exchange(s->rows, 0);
    if (!out) continue;
    if (rows > 1) stats_.prompt_rows += rows;
    const bool whole = rows == s->remaining();
    s->computed += rows;
    if (!whole) continue;
    const auto sample =
        out->samples.empty()
            ? sampler_.sample(out->logits.subspan(i * options_.vocab_size, options_.vocab_size),
                              how[i])
            : out->samples[i];
    if (!draft_one(*s, sample, how[i++])) {  // this model cannot follow: nothing of it is offered
      drop(s->key);
      continue;
    }
    runs.push_back(
        {s->key, s->confirmed, {s->tokens.begin() + s->confirmed, s->tokens.end()}, s->sureness});
  }
  if (!out) return tl::unexpected(out.error());
  return runs;
}

draft_stats draft_engine::stats() const {
  draft_stats s = stats_;
  s.sequences = static_cast<std::uint32_t>(sequences_.size());
  s.blocks_free = static_cast<std::uint32_t>(free_.size());
  return s;
}

std::vector<draft_engine::view> draft_engine::sequences() const {
  std::vector<view> all;
  for (const auto& [key, s] : sequences_)
    all.push_back({key, s->tokens, s->confirmed, s->computed, s->table});
  return all;
}

std::string draft_engine::check_invariants() const {
  std::vector<int> uses(options_.num_blocks, 0);
  for (const block_id b : free_) ++uses[b];
  for (const auto& [key, s] : sequences_) {
    for (const block_id b : s->table) ++uses[b];
    const std::string name = "sequence " + std::to_string(key);
    if (s->rows != 0) return name + ": rows are planned outside of a pass";
    if (s->confirmed > s->size()) return name + ": more is confirmed than there is";
    if (s->computed > s->table.size() * block_tokens_) return name + ": computed without a block";
    if (s->size() > 0 && s->computed >= s->size()) return name + ": nothing is left to compute";
    if (s->sureness.size() != s->size() - s->confirmed) return name + ": sureness is out of step";
  }
  for (std::size_t b = 0; b < uses.size(); ++b)
    if (uses[b] != 1)
      return "block " + std::to_string(b) + " has " + std::to_string(uses[b]) + " uses";
  return {};
}

}  // namespace troupe::engine
