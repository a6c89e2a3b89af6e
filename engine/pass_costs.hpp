// What a pass of decodes costs by its number of rows, measured: whether rows for drafts are nearly free (weights are read
// once, the device waits for memory) or cost their share (it computes). A step_time_model is too coarse for that: its line
// is fitted to prompts as well, and a device's cost has steps.
//
// All estimates follow the machine's speed together, since in a while only some numbers of rows occur. Owner and thread:
// one engine.
#pragma once

#include <array>
#include <cstdint>

namespace troupe::engine {

class pass_costs {
 public:
  static constexpr std::uint32_t max_rows = 128;

  void observe(std::uint32_t rows, double seconds);
  // 0: nothing is known. Between known numbers a line; beyond the largest, each row costs `row_seconds`, or, where that is
  // 0, a quarter of a row's share.
  double predict(std::uint32_t rows, double row_seconds) const;
  bool known(std::uint32_t rows) const;  // measured, and not too long ago

 private:
  struct estimate {
    double seconds = 0;
    std::uint64_t seen = 0;  // when; 0: never
    std::uint32_t count = 0;
  };

  std::array<estimate, max_rows + 1> estimates_{};
  std::uint64_t now_ = 0;  // observations
};

}  // namespace troupe::engine
