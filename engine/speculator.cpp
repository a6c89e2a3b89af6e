#include "engine/speculator.hpp"

#include <algorithm>

namespace troupe::engine {
namespace {

constexpr double margin = 1.04;              // by which drafting must be predicted to win
constexpr std::uint32_t catch_up = 512;      // tokens taken into the automaton in one pass
constexpr std::uint32_t max_rows_more = 64;  // of a pass: their logits need memory

}  // namespace

void speculator::offer(sequence& s, std::uint32_t first, std::vector<token_id> tokens,
                       std::vector<std::uint8_t> sureness) {
  trial_.heard();
  if (!s.guesses) s.guesses = std::make_unique<drafts>();
  s.guesses->follow(s.tokens, s.num_context, catch_up, usual_);  // judges the offer before
  s.guesses->offer(first, std::move(tokens), std::move(sureness));
}

// Guesses of the sequences that decode; others only take in their tokens.
void speculator::collect(const std::vector<sequence*>& planned) {
  num_decodes_ = 0;
  candidates_.clear();
  for (sequence* s : planned) {
    if (s->request.prefill_only) continue;
    if (!s->guesses) s->guesses = std::make_unique<drafts>();
    s->guesses->follow(s->tokens, s->num_context, catch_up, usual_);
    if (s->remaining() != 1 || s->num_output() == 0) continue;
    if (num_decodes_ == decodes_.size()) decodes_.emplace_back();
    decode& d = decodes_[num_decodes_];
    d.s = s;
    d.taken = 0;
    // The pass brings one token more than it carries drafts.
    const std::uint32_t to_come = s->request.sampling.max_tokens - s->num_output();
    s->guesses->propose(s->tokens, std::min(options_.max_tokens, to_come - 1), usual_,
                        options_.from_text, options_.from_draft, d.offered);
    for (float chance : d.offered.chances)
      candidates_.push_back({chance, static_cast<std::uint32_t>(num_decodes_)});
    if (d.offered.tokens.empty()) ++stats_.unguessed;
    ++num_decodes_;
  }
  // Chances of one sequence fall, so a stable order takes its tokens from the first on.
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [](const candidate& a, const candidate& b) { return a.chance > b.chance; });
}

double speculator::row_seconds(const step_time_model& times, const sequence& s) {
  if (!times.trained()) return 0;
  step_size none, one;
  one.add(1, s.num_computed);
  return std::max(0.0, times.predict(one) - times.predict(none));
}

std::size_t speculator::best_alone(const step_time_model& times) const {
  const auto plain = static_cast<std::uint32_t>(num_decodes_);
  if (!costs_.known(plain)) return 0;  // so that it becomes known
  const double row = row_seconds(times, *decodes_[0].s);
  double tokens = plain, best = margin * plain / costs_.predict(plain, row);
  std::size_t taken = 0;
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    tokens += candidates_[i].chance;
    const double speed = tokens / costs_.predict(plain + static_cast<std::uint32_t>(i) + 1, row);
    if (speed <= best) continue;
    best = speed;
    taken = i + 1;
  }
  return taken;
}

// The device computes anyway, so each row costs its time; a right guess saves a plain decode's.
std::size_t speculator::best_beside_prompts(const step_time_model& times) const {
  const auto plain = static_cast<std::uint32_t>(num_decodes_);
  if (!times.trained() || !costs_.known(plain)) return 0;
  const double row = row_seconds(times, *decodes_[0].s);
  const double saves = costs_.predict(plain, row) / plain;
  std::size_t taken = 0;
  while (taken < candidates_.size() && candidates_[taken].chance * saves > margin * row) ++taken;
  return taken;
}

// Blocks for drafts come from what is free, never from other sequences.
void speculator::grant(decode& d) {
  sequence& s = *d.s;
  const std::uint32_t fits = kv_.grow_for_drafts(s, d.taken);
  if (fits == 0) return;
  s.verifies_offer = d.offered.offered;
  s.verify.assign(1, s.tokens.back());
  s.verify.insert(s.verify.end(), d.offered.tokens.begin(),
                  d.offered.tokens.begin() + static_cast<std::ptrdiff_t>(fits));
  s.rows = 1 + fits;
}

void speculator::plan(const std::vector<sequence*>& planned, const step_time_model& times,
                      std::uint32_t room) {
  accepted_in_pass_ = 0;
  if (!enabled()) return;
  collect(planned);
  if (candidates_.empty()) return;
  const bool alone = num_decodes_ == planned.size();
  std::size_t taken = options_.always ? candidates_.size()
                      : alone         ? best_alone(times)
                                      : best_beside_prompts(times);
  taken = std::min({taken, std::size_t{room}, std::size_t{max_rows_more}});
  for (std::size_t i = 0; i < taken; ++i) ++decodes_[candidates_[i].decode].taken;
  for (std::size_t i = 0; i < num_decodes_; ++i) {
    decode& d = decodes_[i];
    if (d.offered.tokens.empty()) continue;
    if (d.taken > 0) grant(d);
    ++(d.s->verify.empty() ? stats_.declined : stats_.speculated);
  }
}

void speculator::observe(std::uint32_t prompt_rows, std::uint32_t decode_rows, double seconds) {
  if (prompt_rows > 0) return;
  costs_.observe(decode_rows, seconds);
  if (!enabled()) return;
  const auto decodes = static_cast<std::uint32_t>(num_decodes_);
  trial_.observe(decodes, decodes + accepted_in_pass_, seconds);
  note_trial();
}

void speculator::expect_drafts(bool on) {
  trial_.expect(on && enabled() && options_.from_draft, options_.try_draft);
  note_trial();
}

void speculator::note_trial() {
  stats_.draft_proven = trial_.proven();
  if (trial_.wanted() == stats_.draft_wanted) return;
  stats_.draft_wanted = trial_.wanted();
  ++(stats_.draft_wanted ? stats_.draft_on : stats_.draft_off);
}

void speculator::verified(bool offered, std::uint32_t drafted, std::uint32_t accepted) {
  accepted_in_pass_ += accepted;
  if (offered) {
    stats_.draft_drafted += drafted;
    stats_.draft_accepted += accepted;
  }
  stats_.drafted += drafted;
  stats_.accepted += accepted;
}

}  // namespace troupe::engine
