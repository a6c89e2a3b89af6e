// Kernels on one row of activations: norm, quantization, SiLU, rotary embedding. Templates over the instruction
// set's `simd`; see kernels.hpp for contracts. Every reduction has 16 partial results, one a lane.
#pragma once

#include "gpu/host/kernels.hpp"

namespace troupe::gpu::host {
namespace {

template <class S>
struct row_kernels {
  using f = typename S::f;
  using i = typename S::i;

  // e^x for x <= 88.3; 0 below -87.3. Cephes' reduction x = n ln 2 + r and a polynomial of degree 6 on
  // [-ln 2 / 2, ln 2 / 2] (Taylor's, error below 3e-7 relative), the same on every instruction set.
  static f exp(f x) {
    const f lowest = S::set1(-87.3f);
    const f y = S::max(S::min(x, S::set1(88.3f)), lowest);
    const f magic =
        S::set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const f shifted = S::fma(y, S::set1(1.44269504088896341f), magic);
    const f n = S::sub(shifted, magic);
    f r = S::fma(n, S::set1(-0.693359375f), y);
    r = S::fma(n, S::set1(2.12194440e-4f), r);
    f p = S::set1(1.0f / 720);
    p = S::fma(p, r, S::set1(1.0f / 120));
    p = S::fma(p, r, S::set1(1.0f / 24));
    p = S::fma(p, r, S::set1(1.0f / 6));
    p = S::fma(p, r, S::set1(0.5f));
    p = S::fma(p, r, S::set1(1.0f));
    p = S::fma(p, r, S::set1(1.0f));
    const i exponent =
        S::template shift_left<23>(S::sub_i(S::float_to_bits(shifted), S::float_to_bits(magic)));
    return S::keep_if_ge(S::bits_to_float(S::add_i(S::float_to_bits(p), exponent)), x, lowest);
  }

  // p[k .. k + 16), zeros from n on.
  static f load_part(const float* p, std::uint32_t k, std::uint32_t n) {
    if (k + 16 <= n) return S::load(p + k);
    float part[16] = {};
    for (std::uint32_t j = k; j < n; ++j) part[j - k] = p[j];
    return S::load(part);
  }

  static float rms_factor(const float* in, float epsilon, std::uint32_t columns) {
    f squares = S::zero();
    for (std::uint32_t k = 0; k < columns; k += 16) {
      const f x = load_part(in, k, columns);
      squares = S::fma(x, x, squares);
    }
    return 1.0f / __builtin_sqrtf(S::sum(squares) / static_cast<float>(columns) + epsilon);
  }

  // `out` may be `in`.
  static void rms_norm(const float* in, const float* weight, float epsilon, std::uint32_t columns,
                       float* out) {
    const float factor = rms_factor(in, epsilon, columns);
    for (std::uint32_t k = 0; k < columns; ++k) out[k] = in[k] * factor * weight[k];
  }

  static void quantize_row(const quantize_args& a) {
    const activations& out = *a.out;
    const std::uint32_t padded = out.groups * group_size;
    float* x = out.values ? out.values + std::size_t{a.row} * padded : a.scratch;
    const float factor = a.weight ? rms_factor(a.in, a.epsilon, a.columns) : 1.0f;
    for (std::uint32_t k = 0; k < padded; k += 16) {
      f v = load_part(a.in, k, a.columns);
      if (a.weight) v = S::mul(S::mul(v, S::set1(factor)), load_part(a.weight, k, a.columns));
      S::store(x + k, v);
    }
    if (!out.quantized) return;
    f magnitude = S::zero();
    for (std::uint32_t k = 0; k < padded; k += 16)
      magnitude = S::max(magnitude, S::abs(S::load(x + k)));
    const float highest = S::highest(magnitude);
    // A row of zeros (or one too small to scale) is quantized to zeros.
    const float inverse = highest > 1e-30f ? activation_max / highest : 0.0f;
    out.scales[a.row] = highest > 1e-30f ? highest / activation_max : 0.0f;

    const std::uint32_t first = a.row / rows_per_block * rows_per_block;
    const std::uint32_t block =
        out.rows - first < rows_per_block ? out.rows - first : rows_per_block;
    const std::size_t at = std::size_t{first} * out.groups + (a.row - first);
    const f scale = S::set1(inverse), magic = S::set1(12582912.0f);
    for (std::uint32_t g = 0; g < out.groups; ++g) {
      const i low = to_integer(S::load(x + 32 * g), scale, magic);
      const i high = to_integer(S::load(x + 32 * g + 16), scale, magic);
      S::pack_activations(out.quantized + (at + std::size_t{g} * block) * 64, low, high);
      group_sums& s = out.sums[at + std::size_t{g} * block];
      s.half[0] = S::sum_i(low);
      s.half[1] = S::sum_i(high);
      s.whole = s.half[0] + s.half[1];
      s.whole_f = static_cast<float>(s.whole);
    }
  }

  // Rounds to nearest, ties to even: |x * scale| < 2^22.
  static i to_integer(f x, f scale, f magic) {
    return S::sub_i(S::float_to_bits(S::add(S::mul(x, scale), magic)), S::float_to_bits(magic));
  }

  static void silu_multiply(const float* gate, const float* up, std::uint32_t rows, float* out,
                            std::size_t out_stride) {
    const f one = S::set1(1.0f);
    for (std::uint32_t r = 0; r < rows; ++r) {
      const f g = S::load(gate + 16 * r);
      const f e = exp(S::sub(S::zero(), g));
      S::store(out + r * out_stride, S::mul(S::div(g, S::add(one, e)), S::load(up + 16 * r)));
    }
  }

  // Lanes are paired with their neighbour or with the lane half a rotation away; out = x cos + partner (+-sin).
  static void rope(const rope_args& a) {
    float rotated[512];
    const std::uint32_t half = a.dimensions / 2;
    if (a.interleaved) {
      for (std::uint32_t k = 0; k < a.dimensions; k += 2) {
        rotated[k] = __builtin_fmaf(a.head[k], a.cosine[k], a.head[k + 1] * a.sine[k]);
        rotated[k + 1] = __builtin_fmaf(a.head[k + 1], a.cosine[k + 1], a.head[k] * a.sine[k + 1]);
      }
    } else {
      for (std::uint32_t k = 0; k < half; ++k) {
        rotated[k] = __builtin_fmaf(a.head[k], a.cosine[k], a.head[k + half] * a.sine[k]);
        rotated[k + half] =
            __builtin_fmaf(a.head[k + half], a.cosine[k + half], a.head[k] * a.sine[k + half]);
      }
    }
    for (std::uint32_t k = 0; k < a.dimensions; ++k) a.head[k] = rotated[k];
  }

  // An infinity in the cache would turn the masked zeros of other rows into NaN.
  static void store_f16(const float* in, std::uint16_t* out, std::uint32_t n) {
    const f limit = S::set1(65504.0f), low = S::set1(-65504.0f);
    for (std::uint32_t k = 0; k < n; k += 16)
      S::store_f16(out + k, S::max(S::min(S::load(in + k), limit), low));
  }

  static void scale(float* x, float factor, std::uint32_t n) {
    for (std::uint32_t k = 0; k < n; ++k) x[k] *= factor;
  }
  static void add(float* x, const float* y, std::uint32_t n) {
    for (std::uint32_t k = 0; k < n; ++k) x[k] += y[k];
  }
};

}  // namespace
}  // namespace troupe::gpu::host
