// Times by the million in a few kilobytes: buckets that are 1 % wide, from a microsecond to a day; the mean and the
// largest are exact. One thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "actors/capacity/plan.hpp"

namespace troupe::actors {

class log_histogram {
 public:
  void add(double seconds) {
    const double clamped = std::clamp(seconds, smallest, largest);
    ++counts_[static_cast<std::size_t>(std::log2(clamped / smallest) * per_octave)];
    ++count_;
    sum_ += seconds;
    max_ = std::max(max_, seconds);
  }
  distribution summary() const {
    distribution d{count_, 0, 0, 0, 0, max_};
    if (count_ == 0) return d;
    d.mean = sum_ / static_cast<double>(count_);
    d.p50 = quantile(0.5), d.p90 = quantile(0.9), d.p99 = quantile(0.99);
    return d;
  }

 private:
  static constexpr double smallest = 1e-6, largest = 86'400, per_octave = 70;

  double quantile(double q) const {
    const auto rank = static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(count_)));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i)
      if ((seen += counts_[i]) >= rank)
        return std::min(max_, smallest * std::exp2((static_cast<double>(i) + 0.5) / per_octave));
    return max_;
  }

  std::vector<std::uint64_t> counts_ =
      std::vector<std::uint64_t>(2600);  // log2(8.64e10) * 70 = 2544
  std::uint64_t count_ = 0;
  double sum_ = 0, max_ = 0;
};

}  // namespace troupe::actors
