#include "gpu/host/rope_angles.hpp"

namespace troupe::gpu::host {

void sin_cos(double x, double& sine, double& cosine) {
  // Reduction of Cody and Waite: pi/2 in three parts, the first two short enough that n times them is exact.
  const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double n = (x * 0.63661977236758134308 + magic) - magic;
  const double r = ((x - n * 1.57079632673412561417) - n * 6.07710050630396597660e-11) -
                   n * 2.02226624871116645580e-21;
  const double z = r * r;
  double s = -1.0 / 1307674368000;
  s = s * z + 1.0 / 6227020800;
  s = s * z - 1.0 / 39916800;
  s = s * z + 1.0 / 362880;
  s = s * z - 1.0 / 5040;
  s = s * z + 1.0 / 120;
  s = s * z - 1.0 / 6;
  s = r + r * z * s;
  double c = 1.0 / 20922789888000;
  c = c * z - 1.0 / 87178291200;
  c = c * z + 1.0 / 479001600;
  c = c * z - 1.0 / 3628800;
  c = c * z + 1.0 / 40320;
  c = c * z - 1.0 / 720;
  c = c * z + 1.0 / 24;
  c = c * z - 0.5;
  c = 1.0 + z * c;
  const auto quadrant = static_cast<std::int64_t>(n) & 3;
  sine = (quadrant & 1) ? c : s;
  cosine = (quadrant & 1) ? s : c;
  if (quadrant & 2) sine = -sine;
  if (quadrant == 1 || quadrant == 2) cosine = -cosine;
}

void rope_lanes(const model::rope_config& rope, const model::rope_frequencies& frequencies,
                std::uint32_t position, std::span<float> cosine, std::span<float> sine) {
  const std::size_t half = rope.dimensions / 2;
  for (std::size_t k = 0; k < half; ++k) {
    double s = 0, c = 0;
    sin_cos(static_cast<double>(position) * static_cast<double>(frequencies.inv_freq[k]), s, c);
    const std::size_t first = rope.interleaved ? 2 * k : k,
                      second = rope.interleaved ? 2 * k + 1 : k + half;
    cosine[first] = cosine[second] = static_cast<float>(c) * frequencies.attention_factor;
    sine[second] = static_cast<float>(s) * frequencies.attention_factor;
    sine[first] = -sine[second];
  }
}

}  // namespace troupe::gpu::host
