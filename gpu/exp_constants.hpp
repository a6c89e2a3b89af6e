// The numbers behind exp_nonpositive (sampling.hpp), shared with engine/vocab_ops, which computes it for whole registers and
// may include no function. x = n ln2 + r, |r| <= ln2/2; a polynomial for e^r (Taylor to r^7, error below one unit in the
// last place), 2^n by its exponent bits.
#pragma once

namespace troupe::gpu {

struct exp_constants {
  static constexpr float least = -87.0f;  // below it the result is 0
  static constexpr float log2_e = 1.44269504f;
  static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float p7 = 1.98412698e-4f, p6 = 1.38888889e-3f, p5 = 8.33333333e-3f,
                         p4 = 4.16666667e-2f, p3 = 1.66666667e-1f, p2 = 0.5f;
  // A weight times unit_scale plus unit_magic, 1.5 * 2^52, is rounded to an integer.
  static constexpr double unit_scale = 17592186044416.0;  // 2^44
  static constexpr double unit_magic = 6755399441055744.0;
};

}  // namespace troupe::gpu
