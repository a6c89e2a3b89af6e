#include "engine/step_time_model.hpp"

#include <algorithm>

namespace troupe::engine {
namespace {

constexpr double forgetting = 0.98;
constexpr double largest_covariance =
    1e5;                       // forgetting without news would let it grow without bound
constexpr double outlier = 8;  // times the prediction: the machine paused, not the model changed

// Features of about one size keep the recursion well conditioned.
std::array<double, 3> features(const step_size& s) {
  return {1, s.rows / 256, s.row_context / (256 * 1024)};
}

double dot(const std::array<double, 3>& a, const std::array<double, 3>& b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

}  // namespace

void step_time_model::observe(const step_size& size, double seconds) {
  if (++observations_ == 1) return;  // the first pass touches memory for the first time
  const auto x = features(size);
  const double predicted = dot(coefficients_, x);
  if (trained() && predicted > 0) seconds = std::min(seconds, outlier * predicted);
  std::array<double, 3> px{};
  for (int i = 0; i < 3; ++i) px[i] = dot(covariance_[i], x);
  const double trace = covariance_[0][0] + covariance_[1][1] + covariance_[2][2];
  const double keep = trace > largest_covariance ? 1.0 : forgetting;
  const double scale = 1 / (keep + dot(x, px));
  for (int i = 0; i < 3; ++i) coefficients_[i] += px[i] * scale * (seconds - predicted);
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      covariance_[i][j] = (covariance_[i][j] - px[i] * px[j] * scale) / keep;
}

double step_time_model::predict(const step_size& size) const {
  return dot(coefficients_, features(size));
}

std::uint32_t step_time_model::rows_within(const step_size& base, std::uint32_t first_position,
                                           double target_seconds, std::uint32_t high) const {
  if (!trained()) return high;
  std::uint32_t low = 0;
  while (low < high) {
    const std::uint32_t middle = low + (high - low + 1) / 2;
    step_size size = base;
    size.add(middle, first_position);
    if (predict(size) <= target_seconds) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace troupe::engine
