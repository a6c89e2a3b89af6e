#include "engine/pass_costs.hpp"

#include <algorithm>

namespace troupe::engine {
namespace {

constexpr double outlier = 2;         // a pass that took longer was disturbed
constexpr double drift_weight = 0.1;  // of a new measurement, as a ratio, in all estimates
constexpr double own_weight = 0.05;   // and once more in its own
constexpr std::uint64_t forget_after =
    1000;  // observations: an old estimate gives way to its neighbours' line

}  // namespace

bool pass_costs::known(std::uint32_t rows) const {
  if (rows > max_rows) return false;
  const estimate& e = estimates_[rows];
  return e.seen > 0 && now_ - e.seen < forget_after;
}

void pass_costs::observe(std::uint32_t rows, double seconds) {
  if (rows == 0 || rows > max_rows || !(seconds > 0)) return;
  ++now_;
  estimate& e = estimates_[rows];
  if (!known(rows)) {
    e = {seconds, now_, 1};
    return;
  }
  // The first few measurements count as a mean, the very first of a process being the slowest.
  const double weight = std::max(own_weight, 1.0 / (e.count + 1));
  const double ratio = std::clamp(seconds / e.seconds, 1 / outlier, outlier);
  if (e.count >= 8) {
    const double drift = 1 + drift_weight * (ratio - 1);
    for (estimate& other : estimates_) other.seconds *= drift;
  }
  e.seconds *= 1 + weight * (ratio - 1);
  e.seen = now_;
  ++e.count;
}

double pass_costs::predict(std::uint32_t rows, double row_seconds) const {
  rows = std::max<std::uint32_t>(rows, 1);
  std::uint32_t below = std::min(rows, max_rows), above = below;
  while (below > 0 && !known(below)) --below;
  while (above <= max_rows && !known(above)) ++above;
  if (below == 0 && above > max_rows) return 0;
  if (below == 0) return estimates_[above].seconds;  // fewer rows cost at most as much
  const estimate& low = estimates_[below];
  if (below == rows) return low.seconds;
  if (above > max_rows) {
    const double row = row_seconds > 0 ? row_seconds : low.seconds / (4.0 * below);
    return low.seconds + row * (rows - below);
  }
  const double part = static_cast<double>(rows - below) / (above - below);
  return low.seconds + part * (estimates_[above].seconds - low.seconds);
}

}  // namespace troupe::engine
