// Frequencies of rotary position embedding. In double and rounded once, so that no host's libm
// decides a token. Scaling kinds: transformers' modeling_rope_utils.py; YaRN is Peng et al. 2023
// (arXiv 2309.00071).
#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/config.hpp"

namespace troupe::model {

namespace {

// Long waves are stretched by the factor, short ones kept, those between interpolated.
double scale_llama3(double inv_freq, const rope_config& rope) {
  const double wavelength = 2 * std::numbers::pi / inv_freq;
  const double turns =
      rope.original_max_position_embeddings / wavelength;  // within the original context
  if (turns <= rope.low_freq_factor) return inv_freq / rope.factor;
  if (turns >= rope.high_freq_factor) return inv_freq;
  const double keep =
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - keep) * inv_freq / rope.factor + keep * inv_freq;
}

// The (fractional) pair that makes `turns` turns within the original context.
double yarn_pair(double turns, const rope_config& rope) {
  return rope.dimensions *
         std::log(rope.original_max_position_embeddings / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(static_cast<double>(rope.theta)));
}

double scale_yarn(double inv_freq, std::size_t pair, const rope_config& rope) {
  const double last = rope.dimensions - 1;
  const double low = std::max(std::floor(yarn_pair(rope.beta_fast, rope)), 0.0);
  double high = std::min(std::ceil(yarn_pair(rope.beta_slow, rope)), last);
  if (high == low) high += 0.001;
  const double interpolate = std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
  return interpolate * inv_freq / rope.factor + (1 - interpolate) * inv_freq;
}

}  // namespace

rope_frequencies frequencies(const rope_config& rope) {
  rope_frequencies out;
  out.inv_freq.resize(rope.dimensions / 2);
  for (std::size_t i = 0; i < out.inv_freq.size(); ++i) {
    double inv_freq =
        std::pow(static_cast<double>(rope.theta), -2.0 * static_cast<double>(i) / rope.dimensions);
    if (!rope.freq_factors.empty()) inv_freq /= rope.freq_factors[i];
    switch (rope.scaling) {
      case rope_scaling_kind::none:
        break;
      case rope_scaling_kind::linear:
        inv_freq /= rope.factor;
        break;
      case rope_scaling_kind::llama3:
        inv_freq = scale_llama3(inv_freq, rope);
        break;
      case rope_scaling_kind::yarn:
        inv_freq = scale_yarn(inv_freq, i, rope);
        break;
    }
    out.inv_freq[i] = static_cast<float>(inv_freq);
  }
  if (rope.scaling == rope_scaling_kind::yarn) out.attention_factor = rope.attention_factor;
  return out;
}

}  // namespace troupe::model
