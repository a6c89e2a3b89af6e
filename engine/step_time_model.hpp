// How long a pass takes on this device: t = a + b * rows + c * (rows * context), fitted online to
// measured passes by recursive least squares that forgets (Haykin, "Adaptive Filter Theory", ch.
// 10). It decides how many prompt rows fit beside running decodes within the inter-token target.
// Owner and thread: one engine.
#pragma once

#include <array>
#include <cstdint>

namespace troupe::engine {

// Sums over the sequences of a pass.
struct step_size {
  double rows = 0;
  double row_context = 0;  // rows * mean context of these rows
  void add(std::uint32_t count, std::uint32_t first_position) {
    rows += count;
    row_context += count * (first_position + 0.5 * count);
  }
};

class step_time_model {
 public:
  void observe(const step_size& size, double seconds);
  double predict(const step_size& size) const;
  bool trained() const { return observations_ >= 8; }
  // How many rows at first_position fit beside `base` within the target, at most `high`. `high`
  // while untrained.
  std::uint32_t rows_within(const step_size& base, std::uint32_t first_position,
                            double target_seconds, std::uint32_t high) const;

 private:
  std::array<double, 3> coefficients_{};  // in the scaled features
  std::array<std::array<double, 3>, 3> covariance_{{{1e4, 0, 0}, {0, 1e4, 0}, {0, 0, 1e4}}};
  std::uint64_t observations_ = 0;
};

}  // namespace troupe::engine
