// Sixteen lanes in plain C++: the reference that simd_avx512.hpp and simd_avx2.hpp must equal bit for bit, and what
// runs on any other CPU. Included by kernels_portable.cpp only.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace troupe::gpu::host {
namespace {

struct simd {
  struct f {
    float v[16];
  };
  struct i {
    std::int32_t v[16];
  };
  static constexpr int attention_rows = 1, attention_registers = 1;

  template <class F>
  static f make(F&& of_lane) {
    f r;
    for (int k = 0; k < 16; ++k) r.v[k] = of_lane(k);
    return r;
  }
  template <class F>
  static i make_i(F&& of_lane) {
    i r;
    for (int k = 0; k < 16; ++k) r.v[k] = of_lane(k);
    return r;
  }

  static f zero() { return set1(0.0f); }
  static f set1(float x) {
    return make([&](int) { return x; });
  }
  static f load(const float* p) {
    return make([&](int k) { return p[k]; });
  }
  static void store(float* p, const f& x) { std::memcpy(p, x.v, sizeof x.v); }

  // IEEE binary16, as vcvtph2ps reads it.
  static float from_f16(std::uint16_t h) {
    const std::uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31,
                        mantissa = h & 0x3ffu;
    if (exponent == 31) {  // a signalling NaN becomes quiet
      return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13) |
                                  (mantissa ? 0x400000u : 0));
    }
    if (exponent == 0) {
      const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
      return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
    }
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  // Rounds to nearest, ties to even, as vcvtps2ph does.
  static std::uint16_t to_f16(float x) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
      return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {  // subnormal: the addition rounds at 2^-24
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      return static_cast<std::uint16_t>(sign |
                                        (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
    }
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
  static f load_f16(const std::uint16_t* p) {
    return make([&](int k) { return from_f16(p[k]); });
  }
  static void store_f16(std::uint16_t* p, const f& x) {
    for (int k = 0; k < 16; ++k) p[k] = to_f16(x.v[k]);
  }
  static f load_bf16(const std::uint16_t* p) {
    return make(
        [&](int k) { return std::bit_cast<float>(static_cast<std::uint32_t>(p[k]) << 16); });
  }
  static f load_u8(const std::uint8_t* p) {
    return make([&](int k) { return static_cast<float>(p[k]); });
  }
  static f load_s8(const std::uint8_t* p) {
    return make([&](int k) { return static_cast<float>(static_cast<std::int8_t>(p[k])); });
  }
  static f add(const f& a, const f& b) {
    return make([&](int k) { return a.v[k] + b.v[k]; });
  }
  static f sub(const f& a, const f& b) {
    return make([&](int k) { return a.v[k] - b.v[k]; });
  }
  static f mul(const f& a, const f& b) {
    return make([&](int k) { return a.v[k] * b.v[k]; });
  }
  static f div(const f& a, const f& b) {
    return make([&](int k) { return a.v[k] / b.v[k]; });
  }
  static f max(const f& a, const f& b) {
    return make([&](int k) { return a.v[k] > b.v[k] ? a.v[k] : b.v[k]; });
  }
  static f min(const f& a, const f& b) {
    return make([&](int k) { return a.v[k] < b.v[k] ? a.v[k] : b.v[k]; });
  }
  static f fma(const f& a, const f& b, const f& c) {
    return make([&](int k) { return std::fma(a.v[k], b.v[k], c.v[k]); });
  }
  static f abs(const f& a) {
    return make([&](int k) { return std::fabs(a.v[k]); });
  }
  static f keep_if_ge(const f& x, const f& a, const f& b) {
    return make([&](int k) { return a.v[k] >= b.v[k] ? x.v[k] : 0.0f; });
  }
  static f first_lanes(const f& x, int n, const f& other) {
    return make([&](int k) { return k < n ? x.v[k] : other.v[k]; });
  }

  static i set1_i(std::int32_t x) {
    return make_i([&](int) { return x; });
  }
  static i add_i(const i& a, const i& b) {
    return make_i([&](int k) { return wrap(a.v[k], b.v[k]); });
  }
  static i sub_i(const i& a, const i& b) {
    return make_i([&](int k) { return a.v[k] - b.v[k]; });
  }
  template <int n>
  static i shift_left(const i& a) {
    return make_i(
        [&](int k) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[k]) << n); });
  }
  static f to_float(const i& a) {
    return make([&](int k) { return static_cast<float>(a.v[k]); });
  }
  static f bits_to_float(const i& a) {
    return make([&](int k) { return std::bit_cast<float>(a.v[k]); });
  }
  static i float_to_bits(const f& a) {
    return make_i([&](int k) { return std::bit_cast<std::int32_t>(a.v[k]); });
  }

  static float sum(f x) {
    for (int n = 8; n > 0; n /= 2)
      for (int k = 0; k < n; ++k) x.v[k] += x.v[k + n];
    return x.v[0];
  }
  static float highest(const f& x) {
    float r = x.v[0];
    for (int k = 1; k < 16; ++k) r = x.v[k] > r ? x.v[k] : r;
    return r;
  }
  static void prefetch(const void*) {}

  static void transpose_f16(const std::uint16_t* const* rows, std::uint32_t d, std::uint16_t* out,
                            std::size_t stride) {
    for (int c = 0; c < 16; ++c)
      for (int k = 0; k < 16; ++k) out[c * stride + k] = rows[k][d + c];
  }

  // 32 quantized activations as 32 16-bit numbers.
  static void pack_activations(std::int8_t* out, const i& a, const i& b) {
    std::int16_t v[32];
    for (int k = 0; k < 16; ++k) {
      v[k] = static_cast<std::int16_t>(a.v[k]);
      v[k + 16] = static_cast<std::int16_t>(b.v[k]);
    }
    std::memcpy(out, v, sizeof v);
  }
  static std::int32_t sum_i(const i& a) {
    std::int32_t s = 0;
    for (int k = 0; k < 16; ++k) s += a.v[k];
    return s;
  }

  struct group {
    std::uint8_t w[8][64];
  };  // [quad][output * 4 + weight of the quad]
  template <int bits>
  static group unpack(const std::uint8_t* p) {
    group g;
    if constexpr (bits == 8) {
      std::memcpy(g.w, p, 512);
      return g;
    }
    for (int j = 0; j < 4; ++j)
      for (int k = 0; k < 64; ++k) {
        g.w[j][k] = p[64 * j + k] & 15;
        g.w[j + 4][k] = p[64 * j + k] >> 4;
      }
    if constexpr (bits == 5) {
      for (int j = 0; j < 8; ++j)
        for (int k = 0; k < 64; ++k)
          g.w[j][k] =
              static_cast<std::uint8_t>(g.w[j][k] + ((p[256 + 8 * j + k / 8] >> (k % 8)) & 1) * 16);
    }
    if constexpr (bits == 6) {
      for (int j = 0; j < 8; ++j)
        for (int k = 0; k < 64; ++k)
          g.w[j][k] = static_cast<std::uint8_t>(
              g.w[j][k] + ((p[256 + 64 * (j / 4) + k] >> (2 * (j % 4))) & 3) * 16);
    }
    return g;
  }
  template <int first, int last, int rows>
  static void dot(const group& g, const std::int8_t* act, i (&out)[rows]) {
    for (int r = 0; r < rows; ++r) {
      std::int16_t a[32];
      std::memcpy(a, act + 64 * r, sizeof a);
      out[r] = set1_i(0);
      for (int j = first; j < last; ++j)
        for (int o = 0; o < 16; ++o)
          for (int t = 0; t < 4; ++t) out[r].v[o] += g.w[j][4 * o + t] * a[4 * j + t];
    }
  }

 private:
  static std::int32_t wrap(std::int32_t a, std::int32_t b) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
  }
};

}  // namespace
}  // namespace troupe::gpu::host
