#include "engine/speculator.hpp"

#include <algorithm>

namespace troupe::engine {
namespace {

constexpr double margin = 1.04;              // by which drafting must be predicted to win
constexpr std::uint32_t catch_up = 512;      // tokens taken into the automaton in one pass
constexpr std::uint32_t max_rows_more = 64;  // of a pass: their logits need memory
static_assert(2 * most_branches >= max_rows_more, "a branch has two rows at least");
constexpr std::size_t most_sequences_to_branch = 16;
constexpr std::uint32_t prompt_remembered = 32;  // tokens before an answer that are kept with it

}  // namespace

void speculator::begin(sequence& s) {
  s.guesses = std::make_unique<drafts>();
  if (options_.history_bytes > 0)
    s.guesses->remember(history_.of(s.request.tenant, s.request.cache_salt));
}

void speculator::offer(sequence& s, std::uint32_t first, std::vector<token_id> tokens,
                       std::vector<std::uint8_t> sureness) {
  trial_.heard();
  if (!s.guesses) begin(s);
  s.guesses->follow(s.tokens, s.num_context, catch_up, usual_);  // judges the offer before
  s.guesses->offer(first, std::move(tokens), std::move(sureness));
}

// Tokens of a guess in their order. What a branch costs more than its guesses: the row of the last token, once again.
void speculator::add_candidates(std::uint32_t index, bool with_branches) {
  const decode& d = decodes_[index];
  for (std::uint32_t g = 0; g < (with_branches ? d.guesses.size() : 1); ++g) {
    float worth = d.guesses[0].chances[0];
    for (std::size_t i = 0; i < d.guesses[g].chances.size(); ++i) {
      const float chance = d.guesses[g].chances[i];
      const std::uint32_t rows = g > 0 && i == 0 ? 2 : 1;
      worth = std::min(worth, chance / static_cast<float>(rows));
      candidates_.push_back({worth, chance, rows, index, g});
    }
  }
}

// Guesses of the sequences that decode; others only take in their tokens.
void speculator::collect(const std::vector<sequence*>& planned) {
  num_decodes_ = 0;
  candidates_.clear();
  const bool branch =
      options_.branches && kv_.can_fork() && planned.size() <= most_sequences_to_branch;
  const guess_sources sources{options_.from_text, options_.from_text && options_.history_bytes > 0,
                              options_.from_draft, options_.always};
  for (sequence* s : planned) {
    if (s->request.prefill_only) continue;
    if (!s->guesses) begin(*s);
    s->guesses->follow(s->tokens, s->num_context, catch_up, usual_);
    if (s->remaining() != 1 || s->num_output() == 0) continue;
    if (num_decodes_ == decodes_.size()) decodes_.emplace_back();
    decode& d = decodes_[num_decodes_];
    d.s = s;
    // The pass brings one token more than it carries drafts.
    const std::uint32_t to_come = s->request.sampling.max_tokens - s->num_output();
    s->guesses->propose(s->tokens, std::min(options_.max_tokens, to_come - 1), usual_, sources,
                        d.guesses);
    d.taken.assign(d.guesses.size(), 0);
    if (d.guesses.empty())
      ++stats_.unguessed;
    else
      add_candidates(static_cast<std::uint32_t>(num_decodes_), branch);
    ++num_decodes_;
  }
  // A stable order takes a guess's tokens from the first on, and a sequence's first guess before its branches.
  std::stable_sort(candidates_.begin(), candidates_.end(),
                   [](const candidate& a, const candidate& b) { return a.worth > b.worth; });
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
  std::uint32_t rows = plain;
  std::size_t taken = 0;
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    tokens += candidates_[i].chance;
    rows += candidates_[i].rows;
    const double speed = tokens / costs_.predict(rows, row);
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
  while (taken < candidates_.size() && candidates_[taken].worth * saves > margin * row) ++taken;
  return taken;
}

// Blocks for drafts come from what is free, never from other sequences.
void speculator::grant(decode& d) {
  sequence& s = *d.s;
  const guess& first = d.guesses[0];
  const std::uint32_t fits = d.taken[0] > 0 ? kv_.grow_for_drafts(s, d.taken[0]) : 0;
  if (fits == 0) return;
  s.verifies = first.source;
  s.verify.assign(1, s.tokens.back());
  s.verify.insert(s.verify.end(), first.tokens.begin(), first.tokens.begin() + fits);
  s.rows = 1 + fits;
  for (std::size_t g = 1; g < d.guesses.size(); ++g) {
    if (d.taken[g] == 0) continue;
    draft_branch b;
    b.source = d.guesses[g].source;
    b.verify.assign(1, s.tokens.back());
    b.verify.insert(b.verify.end(), d.guesses[g].tokens.begin(),
                    d.guesses[g].tokens.begin() + d.taken[g]);
    if (kv_.fork(s, b)) s.branches.push_back(std::move(b));
  }
}

void speculator::plan(const std::vector<sequence*>& planned, const step_time_model& times,
                      std::uint32_t room) {
  accepted_in_pass_ = 0;
  if (!enabled()) return;
  collect(planned);
  if (candidates_.empty()) return;
  const bool alone = num_decodes_ == planned.size();
  const std::size_t taken = options_.always ? candidates_.size()
                            : alone         ? best_alone(times)
                                            : best_beside_prompts(times);
  room = std::min(room, max_rows_more);
  for (std::size_t i = 0; i < taken && candidates_[i].rows <= room; ++i) {
    room -= candidates_[i].rows;
    ++decodes_[candidates_[i].decode].taken[candidates_[i].guess];
  }
  for (std::size_t i = 0; i < num_decodes_; ++i) {
    decode& d = decodes_[i];
    if (d.guesses.empty()) continue;
    grant(d);
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

void speculator::verified(guess_source source, std::uint32_t drafted, std::uint32_t accepted) {
  accepted_in_pass_ += accepted;
  if (source == guess_source::draft) {
    stats_.draft_drafted += drafted;
    stats_.draft_accepted += accepted;
  } else if (source == guess_source::history) {
    stats_.history_drafted += drafted;
    stats_.history_accepted += accepted;
  }
  stats_.drafted += drafted;
  stats_.accepted += accepted;
}

void speculator::branched(bool won) {
  ++stats_.branches;
  if (won) ++stats_.branches_won;
}

// With the end of its prompt, so that the answer's beginning is found too.
void speculator::ended(const sequence& s) {
  if (!enabled() || options_.history_bytes == 0 || s.request.prefill_only || s.num_output() == 0)
    return;
  const std::uint32_t from = s.num_prompt - std::min(s.num_prompt, prompt_remembered);
  history_.add(s.request.tenant, s.request.cache_salt, std::span(s.tokens).subspan(from));
}

}  // namespace troupe::engine
