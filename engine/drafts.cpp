#include "engine/drafts.hpp"

#include <algorithm>
#include <bit>

namespace troupe::engine {
namespace {

// Hit rates to begin with and how many tries they count for: measured on edits and prose with the default model they lie
// around these.
constexpr std::array<double, hit_rates::num_kinds> first_rates = {
    0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.6, 0.2, 0.4, 0.6, 0.85};
constexpr double first_tries = 8, prior_tries = 4;
constexpr double engine_keeps = 0.998, sequence_keeps = 0.97;
constexpr float least_chance = 0.05f;  // no device has rows as cheap as that

double sum(const guess& g) {
  double s = 0;
  for (float c : g.chances) s += c;
  return s;
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

void drafts::score(std::span<const token_id> tokens, std::uint32_t position, hit_rates& usual) {
  const auto note = [&](std::size_t kind, bool hit) {
    usual.note(kind, hit, engine_keeps);
    own_.note(kind, hit, sequence_keeps);
  };
  const suffix_automaton::match m = text_.longest();
  if (m.length > 0) note(hit_rates::kind_of(m.length), tokens[base_ + m.next] == tokens[position]);
  if (position >= offer_first_ && position < offer_first_ + offer_.size() && offer_right_) {
    offer_right_ = offer_[position - offer_first_] == tokens[position];
    note(kind_at(position - offer_first_), offer_right_);
  }
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
void drafts::from_text(std::span<const token_id> tokens, std::uint32_t most, const hit_rates& usual,
                       guess& out) const {
  const suffix_automaton::match m = text_.longest();
  if (m.length == 0 || base_ + text_.size() != tokens.size()) return;
  double chance = 1;
  for (std::uint32_t i = 0; i < most; ++i) {
    chance *= own_.rate(hit_rates::kind_of(m.length + i), usual);
    if (chance < least_chance) return;
    const std::size_t from = base_ + m.next + std::size_t{i};
    out.tokens.push_back(from < tokens.size() ? tokens[from] : out.tokens[from - tokens.size()]);
    out.chances.push_back(static_cast<float>(chance));
  }
}

void drafts::from_offer(std::span<const token_id> tokens, std::uint32_t most,
                        const hit_rates& usual, guess& out) const {
  if (offer_first_ > tokens.size() || offer_first_ + offer_.size() <= tokens.size()) return;
  const std::size_t known = tokens.size() - offer_first_;
  if (!std::equal(tokens.end() - static_cast<std::ptrdiff_t>(known), tokens.end(), offer_.begin()))
    return;
  double chance = 1;
  for (std::size_t i = known; i < offer_.size() && out.tokens.size() < most; ++i) {
    chance *= own_.rate(kind_at(i), usual);
    if (chance < least_chance) return;
    out.tokens.push_back(offer_[i]);
    out.chances.push_back(static_cast<float>(chance));
  }
}

void drafts::propose(std::span<const token_id> tokens, std::uint32_t most, const hit_rates& usual,
                     bool from_text_too, bool from_draft, guess& out) const {
  out.tokens.clear();
  out.chances.clear();
  if (from_draft) from_offer(tokens, most, usual, out);
  out.offered = !out.tokens.empty();
  if (!from_text_too) return;
  guess other;
  from_text(tokens, most, usual, other);
  if (sum(other) > sum(out)) out = std::move(other);
}

}  // namespace troupe::engine
