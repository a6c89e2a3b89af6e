#include "engine/drafts.hpp"

#include <algorithm>
#include <bit>

namespace troupe::engine {
namespace {

// Hit rates to begin with and how many tries they count for: measured on edits and prose with the default model they lie
// around these.
constexpr std::array<double, hit_rates::num_kinds> first_rates = {
    0.15, 0.3, 0.45, 0.6,  0.7,  0.8, 0.9, 0.95,  // of the text
    0.6,  0.2, 0.4,  0.6,  0.85,                  // offered
    0.5,  0.7, 0.85, 0.95,                        // remembered
    0.05, 0.1, 0.15, 0.25};                       // second
constexpr double first_tries = 8, prior_tries = 6;
constexpr double engine_keeps = 0.998, sequence_keeps = 0.9;
constexpr float least_chance = 0.05f;  // no device has rows as cheap as that

double sum(const guess& g) {
  double s = 0;
  for (float c : g.chances) s += c;
  return s;
}

struct step {
  token_id token;
  double rate;  // of being right where all before it are
};

// Tokens that next(0), next(1) ... say, while they are likely enough.
template <class Next>
void extend(guess& out, std::size_t most, const Next& next, float least = least_chance) {
  double chance = 1;
  for (std::size_t i = 0; i < most; ++i) {
    const step s = next(i);
    chance *= s.rate;
    if (chance < least) return;
    out.tokens.push_back(s.token);
    out.chances.push_back(static_cast<float>(chance));
  }
}

}  // namespace

std::size_t hit_rates::kind_of(std::uint32_t match_length) {
  if (match_length <= 3) return match_length - 1;
  if (match_length <= 5) return 3;
  const auto bits = static_cast<std::size_t>(std::bit_width(match_length + 2));  // 6..: 4
  return std::min<std::size_t>(bits, 7);
}

std::size_t hit_rates::kind_of_offer(std::uint8_t sureness) {
  return offered + 1 + (sureness >= 80) + (sureness >= 150) + (sureness >= 220);
}

std::size_t hit_rates::kind_of_memory(std::uint32_t match_length) {
  return remembered + (match_length >= 8) + (match_length >= 16) + (match_length >= 32);
}

std::size_t hit_rates::kind_of_second(double rate) {
  return second + (rate >= 0.15) + (rate >= 0.3) + (rate >= 0.5);
}

hit_rates::hit_rates() {
  for (std::size_t i = 0; i < num_kinds; ++i) {
    tries_[i] = first_tries;
    hits_[i] = first_tries * first_rates[i];
  }
}

hit_rates hit_rates::nothing() {
  hit_rates r;
  r.hits_.fill(0);
  r.tries_.fill(0);
  return r;
}

void hit_rates::note(std::size_t kind, bool hit, double keep) {
  tries_[kind] = tries_[kind] * keep + 1;
  hits_[kind] = hits_[kind] * keep + (hit ? 1 : 0);
}

double hit_rates::rate(std::size_t kind, const hit_rates& usual) const {
  return (hits_[kind] + prior_tries * usual.rate(kind)) / (tries_[kind] + prior_tries);
}

suffix_automaton::match drafts::other_than(token_id first, std::span<const token_id> tokens) const {
  for (const suffix_automaton::match& m : text_.others())
    if (tokens[base_ + m.next] != first) return m;
  return {};
}

// What each source says of the next token.
std::size_t drafts::collect_firsts(std::span<const token_id> tokens,
                                   std::span<first_guess, 4> out) const {
  std::size_t n = 0;
  const std::size_t known = tokens.size() - offer_first_;
  if (offer_right_ && offer_first_ <= tokens.size() && known < offer_.size())
    out[n++] = {offer_[known], kind_at(known)};
  const auto after = answers_ ? answers_->after(remembered_) : std::span<const token_id>();
  if (!after.empty()) out[n++] = {after[0], hit_rates::kind_of_memory(remembered_.length)};
  const suffix_automaton::match m = text_.longest();
  if (m.length == 0) return n;
  out[n++] = {tokens[base_ + m.next], hit_rates::kind_of(m.length)};
  const auto other = other_than(tokens[base_ + m.next], tokens);
  if (other.length > 0)
    out[n++] = {tokens[base_ + other.next], hit_rates::kind_of(other.length), true};
  return n;
}

void drafts::score(std::span<const token_id> tokens, std::uint32_t position, hit_rates& usual) {
  std::array<first_guess, 4> firsts;
  const std::size_t n = collect_firsts(tokens.first(position), firsts);
  const token_id right = tokens[position];
  const auto rate = [&](const first_guess& f) { return own_.rate(f.kind, usual); };
  const first_guess *best = nullptr, *second = nullptr;
  for (const first_guess& f : std::span(firsts).first(n))
    if (best == nullptr || rate(f) > rate(*best)) best = &f;
  for (const first_guess& f : std::span(firsts).first(n))
    if (f.token != best->token && (second == nullptr || rate(f) > rate(*second))) second = &f;
  const std::size_t kind_of_second = second ? hit_rates::kind_of_second(rate(*second)) : 0;
  const auto note = [&](std::size_t kind, bool hit) {
    usual.note(kind, hit, engine_keeps);
    own_.note(kind, hit, sequence_keeps);
  };
  if (second != nullptr) note(kind_of_second, second->token == right);
  for (const first_guess& f : std::span(firsts).first(n))
    if (!f.repeats) note(f.kind, f.token == right);
  if (position >= offer_first_ && position < offer_first_ + offer_.size())
    offer_right_ = offer_right_ && offer_[position - offer_first_] == right;
}

void drafts::follow(std::span<const token_id> tokens, std::uint32_t num_context, std::uint32_t most,
                    hit_rates& usual) {
  if (text_.size() >= window) {
    text_ = suffix_automaton();
    base_ = static_cast<std::uint32_t>(tokens.size()) - window / 2;
  }
  for (std::uint32_t p = base_ + text_.size(); p < tokens.size() && most > 0; ++p, --most) {
    if (p >= num_context) score(tokens, p, usual);
    text_.append(tokens[p]);
    if (answers_ && p + 1 >= num_context) answers_->follow(remembered_, tokens.first(p + 1));
  }
}

std::size_t drafts::kind_at(std::size_t i) const {
  return i < sureness_.size() ? hit_rates::kind_of_offer(sureness_[i]) : hit_rates::offered;
}

void drafts::offer(std::uint32_t first, std::vector<token_id> tokens,
                   std::vector<std::uint8_t> sureness) {
  sureness_ = std::move(sureness);
  offer_first_ = first;
  offer_ = std::move(tokens);
  offer_right_ = true;
}

// Behind the end of what was copied the copy goes on with itself, as in a text that repeats.
void drafts::from_text(suffix_automaton::match m, std::span<const token_id> tokens,
                       std::uint32_t most, const hit_rates& usual, guess& out) const {
  if (m.length == 0) return;
  extend(out, most, [&](std::size_t i) {
    const std::size_t from = base_ + m.next + i;
    return step{from < tokens.size() ? tokens[from] : out.tokens[from - tokens.size()],
                own_.rate(hit_rates::kind_of(m.length + static_cast<std::uint32_t>(i)), usual)};
  });
}

void drafts::from_history(std::uint32_t most, const hit_rates& usual, guess& out) const {
  if (!answers_) return;
  const auto after = answers_->after(remembered_);
  extend(out, std::min<std::size_t>(most, after.size()), [&](std::size_t i) {
    const auto length = remembered_.length + static_cast<std::uint32_t>(i);
    return step{after[i], own_.rate(hit_rates::kind_of_memory(length), usual)};
  });
}

void drafts::from_offer(std::span<const token_id> tokens, std::uint32_t most, float least,
                        const hit_rates& usual, guess& out) const {
  if (offer_first_ > tokens.size() || offer_first_ + offer_.size() <= tokens.size()) return;
  const std::size_t known = tokens.size() - offer_first_;
  if (!std::equal(tokens.end() - static_cast<std::ptrdiff_t>(known), tokens.end(), offer_.begin()))
    return;
  extend(
      out, std::min<std::size_t>(most, offer_.size() - known),
      [&](std::size_t i) {
        return step{offer_[known + i], own_.rate(kind_at(known + i), usual)};
      },
      least);
}

// Of guesses that begin alike the better one stays.
void drafts::propose(std::span<const token_id> tokens, std::uint32_t most, const hit_rates& usual,
                     const guess_sources& from, std::vector<guess>& out) const {
  std::array<guess, 4> all;
  all[0].source = guess_source::draft;
  all[1].source = guess_source::history;
  const bool caught_up = base_ + text_.size() == tokens.size();
  if (from.draft) from_offer(tokens, most, from.unlikely ? 0.0f : least_chance, usual, all[0]);
  if (from.history && caught_up) from_history(most, usual, all[1]);
  if (from.text && caught_up && text_.longest().length > 0) {
    from_text(text_.longest(), tokens, most, usual, all[2]);
    from_text(other_than(tokens[base_ + text_.longest().next], tokens), tokens, most, usual,
              all[3]);
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const guess& a, const guess& b) { return sum(a) > sum(b); });
  out.clear();
  for (guess& g : all) {
    if (g.tokens.empty()) return;
    if (std::any_of(out.begin(), out.end(),
                    [&](const guess& o) { return o.tokens[0] == g.tokens[0]; }))
      continue;
    if (!out.empty()) {
      const double first = g.chances[0];
      const double here = own_.rate(hit_rates::kind_of_second(first), usual);
      for (float& c : g.chances) c = static_cast<float>(c * std::min(1.0, here / first));
    }
    out.push_back(std::move(g));
  }
}

}  // namespace troupe::engine
