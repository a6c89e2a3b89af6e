#include "engine/draft_trial.hpp"

#include <algorithm>
#include <bit>

namespace troupe::engine {
namespace {

constexpr std::uint32_t settling =
    4;  // passes after a change that do not count: what was begun before ends in them
constexpr std::uint32_t measured = 32;  // passes of each way
constexpr std::uint32_t early = 8;      // passes after which a draft that slows much is given up
constexpr std::uint32_t patience =
    256;  // passes without an offer: the draft may have a long prompt to read
constexpr std::uint32_t first_on = 128, longest_on = 2048, first_off = 256, longest_off = 16384;
constexpr double worth = 1.03, much_slower = 0.85;

}  // namespace

void draft_trial::expect(bool on, bool trying) {
  trying_ = trying;
  if (expected_ == on) return;
  expected_ = on;
  loads_ = {};
}

// What was measured before counts half, and so less with each time.
void draft_trial::begin(load& l, phase next) {
  l.state = next;
  l.passes = l.silent = 0;
  arm* a = next == phase::without ? &l.plain : next == phase::with ? &l.drafted : nullptr;
  if (a != nullptr) *a = {a->tokens / 2, a->seconds / 2};
}

void draft_trial::decide(load& l, bool hopeless) {
  const double ratio = l.drafted.speed() / l.plain.speed();
  const bool faster = !hopeless && ratio >= (l.was_on ? 1.0 : worth);
  const bool again = l.stay > 0 && faster == l.was_on;
  const auto longest = faster ? longest_on : longest_off;
  l.stay = again ? std::min(l.stay * 2, longest) : (faster ? first_on : first_off);
  l.was_on = faster;
  begin(l, faster ? phase::on : phase::off);
}

void draft_trial::observe(std::uint32_t decodes, std::uint32_t tokens, double seconds) {
  if (!expected_ || decodes == 0 || !(seconds > 0)) return;
  load_ = std::min<std::size_t>(static_cast<std::size_t>(std::bit_width(decodes)) - 1,
                                loads_.size() - 1);
  load& l = loads_[load_];
  if (l.state == phase::with && l.passes == 0 && !heard_) {
    if (++l.silent > patience) decide(l, true);
    return;
  }
  ++l.passes;
  if (l.state == phase::on || l.state == phase::off) {
    if (l.passes >= l.stay) begin(l, phase::without);
    return;
  }
  if (l.passes <= settling) return;
  arm& a = l.state == phase::without ? l.plain : l.drafted;
  a.tokens += tokens;
  a.seconds += seconds;
  const std::uint32_t counted = l.passes - settling;
  if (l.state == phase::without) {
    if (counted < measured) return;
    heard_ = false;
    return begin(l, phase::with);
  }
  const bool hopeless = counted >= early && a.speed() < much_slower * l.plain.speed();
  if (hopeless || counted >= measured) decide(l, hopeless);
}

}  // namespace troupe::engine
