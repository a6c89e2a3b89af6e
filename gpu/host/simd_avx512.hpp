// Sixteen lanes in one AVX-512 register. Included by one kernels_*.cpp only, whose file name sets the compiler's
// flags; everything is in an unnamed namespace so that no other translation unit can pick it up.
//
// The same names exist in simd_avx2.hpp and simd_portable.hpp and give the same bits: every operation is one IEEE
// operation per lane, and reductions add lanes i and i+8, then i+4, i+2, i+1.
#pragma once

// GCC 12 takes the undefined operand of its own unmasked intrinsics for a mistake of ours (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::host {
namespace {

struct simd {
  using f = __m512;
  using i = __m512i;
  // Rows that attention treats together, and results of 16 tokens (or dimensions) that it keeps in registers.
  static constexpr int attention_rows = 6, attention_registers = 24;

  static f zero() { return _mm512_setzero_ps(); }
  static f set1(float x) { return _mm512_set1_ps(x); }
  static f load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, f x) { _mm512_storeu_ps(p, x); }
  static f load_f16(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store_f16(std::uint16_t* p, f x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static f load_bf16(const std::uint16_t* p) {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
  static f load_u8(const std::uint8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static f load_s8(const std::uint8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static f add(f a, f b) { return _mm512_add_ps(a, b); }
  static f sub(f a, f b) { return _mm512_sub_ps(a, b); }
  static f mul(f a, f b) { return _mm512_mul_ps(a, b); }
  static f div(f a, f b) { return _mm512_div_ps(a, b); }
  static f max(f a, f b) { return _mm512_max_ps(a, b); }
  static f min(f a, f b) { return _mm512_min_ps(a, b); }
  static f fma(f a, f b, f c) { return _mm512_fmadd_ps(a, b, c); }
  static f abs(f a) {
    return _mm512_castsi512_ps(
        _mm512_and_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)));
  }
  // x where a >= b, else 0.
  static f keep_if_ge(f x, f a, f b) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), x);
  }
  // Lanes below n of x, other in the rest. n may be anything.
  static f first_lanes(f x, int n, f other) {
    const unsigned m = n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1;
    return _mm512_mask_mov_ps(other, static_cast<__mmask16>(m), x);
  }

  static i set1_i(std::int32_t x) { return _mm512_set1_epi32(x); }
  static i add_i(i a, i b) { return _mm512_add_epi32(a, b); }
  static i sub_i(i a, i b) { return _mm512_sub_epi32(a, b); }
  template <int n>
  static i shift_left(i a) {
    return _mm512_slli_epi32(a, n);
  }
  static f to_float(i a) { return _mm512_cvtepi32_ps(a); }
  static f bits_to_float(i a) { return _mm512_castsi512_ps(a); }
  static i float_to_bits(f a) { return _mm512_castps_si512(a); }

  static float sum(f x) {
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
  }
  static float highest(f x) {
    const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
  }

  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  // out[c * stride + row] = rows[row][d + c] for 16 rows and 16 c.
  static void transpose_f16(const std::uint16_t* const* rows, std::uint32_t d, std::uint16_t* out,
                            std::size_t stride) {
    i r[8], t[8];
    for (int k = 0; k < 8; ++k) r[k] = quarters(rows[k] + d, rows[k + 8] + d);
    for (int k = 0; k < 8; k += 2) {
      t[k] = _mm512_unpacklo_epi16(r[k], r[k + 1]);
      t[k + 1] = _mm512_unpackhi_epi16(r[k], r[k + 1]);
    }
    for (int k = 0; k < 8; k += 4) {
      r[k] = _mm512_unpacklo_epi32(t[k], t[k + 2]);
      r[k + 1] = _mm512_unpackhi_epi32(t[k], t[k + 2]);
      r[k + 2] = _mm512_unpacklo_epi32(t[k + 1], t[k + 3]);
      r[k + 3] = _mm512_unpackhi_epi32(t[k + 1], t[k + 3]);
    }
    for (int k = 0; k < 4; ++k) {
      store_columns(out + (2 * k) * stride, _mm512_unpacklo_epi64(r[k], r[k + 4]), 8 * stride);
      store_columns(out + (2 * k + 1) * stride, _mm512_unpackhi_epi64(r[k], r[k + 4]), 8 * stride);
    }
  }

  // 32 quantized activations as 32 high bytes, then 32 low bytes: value = 256 * high + low, both signed.
  static void pack_activations(std::int8_t* out, i a, i b) {
    const i half = _mm512_set1_epi32(128);
    const i ha = _mm512_srai_epi32(_mm512_add_epi32(a, half), 8),
            hb = _mm512_srai_epi32(_mm512_add_epi32(b, half), 8);
    store_bytes(out, ha);
    store_bytes(out + 16, hb);
    store_bytes(out + 32, a);  // the low eight bits of the value are the low part
    store_bytes(out + 48, b);
  }
  static std::int32_t sum_i(i a) { return _mm512_reduce_add_epi32(a); }

  // One group of 32 weights of 16 outputs: w[j] holds for each output the four weights 4j..4j+3.
  struct group {
    i w[8];
  };
  template <int bits>
  static group unpack(const std::uint8_t* p) {
    group g;
    if constexpr (bits == 8) {
      for (int j = 0; j < 8; ++j) g.w[j] = load_bytes(p + 64 * j);
      return g;
    }
    const i nibble = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      const i b = load_bytes(p + 64 * j);
      g.w[j] = _mm512_and_si512(b, nibble);
      g.w[j + 4] = _mm512_and_si512(_mm512_srli_epi16(b, 4), nibble);
    }
    if constexpr (bits == 5) {
      for (int j = 0; j < 8; ++j) {
        std::uint64_t m;
        __builtin_memcpy(&m, p + 256 + 8 * j, 8);
        g.w[j] = _mm512_mask_add_epi8(g.w[j], m, g.w[j], _mm512_set1_epi8(16));
      }
    }
    if constexpr (bits == 6) {
      const i high = _mm512_set1_epi8(0x30);
      for (int h = 0; h < 2; ++h) {
        const i b = load_bytes(p + 256 + 64 * h);
        g.w[4 * h] = _mm512_or_si512(g.w[4 * h], _mm512_and_si512(_mm512_slli_epi16(b, 4), high));
        g.w[4 * h + 1] =
            _mm512_or_si512(g.w[4 * h + 1], _mm512_and_si512(_mm512_slli_epi16(b, 2), high));
        g.w[4 * h + 2] = _mm512_or_si512(g.w[4 * h + 2], _mm512_and_si512(b, high));
        g.w[4 * h + 3] =
            _mm512_or_si512(g.w[4 * h + 3], _mm512_and_si512(_mm512_srli_epi16(b, 2), high));
      }
    }
    return g;
  }
  // out[r][output] = sum over weights [4 * first, 4 * last) of weight * activation, exact.
  template <int first, int last, int rows>
  static void dot(const group& g, const std::int8_t* act, i (&out)[rows]) {
    if constexpr (rows <= 6) {  // two chains a row hide the latency of the dot product
      i low[rows];
      for (int r = 0; r < rows; ++r) out[r] = low[r] = _mm512_setzero_si512();
      for (int j = first; j < last; ++j)
        for (int r = 0; r < rows; ++r) {
          out[r] = _mm512_dpbusd_epi32(out[r], g.w[j], broadcast4(act + 64 * r + 4 * j));
          low[r] = _mm512_dpbusd_epi32(low[r], g.w[j], broadcast4(act + 64 * r + 32 + 4 * j));
        }
      for (int r = 0; r < rows; ++r)
        out[r] = _mm512_add_epi32(_mm512_slli_epi32(out[r], 8), low[r]);
    } else {
      for (int r = 0; r < rows; ++r) out[r] = _mm512_setzero_si512();
      for (int j = first; j < last; ++j)
        for (int r = 0; r < rows; ++r)
          out[r] = _mm512_dpbusd_epi32(out[r], g.w[j], broadcast4(act + 64 * r + 4 * j));
      for (int r = 0; r < rows; ++r) out[r] = _mm512_slli_epi32(out[r], 8);
      for (int j = first; j < last; ++j)
        for (int r = 0; r < rows; ++r)
          out[r] = _mm512_dpbusd_epi32(out[r], g.w[j], broadcast4(act + 64 * r + 32 + 4 * j));
    }
  }

 private:
  // p[0..8), q[0..8), p[8..16), q[8..16): lanes change in the loads, which cost no shuffle.
  static i quarters(const std::uint16_t* p, const std::uint16_t* q) {
    i x = _mm512_castsi128_si512(load128(p));
    x = _mm512_mask_broadcast_i32x4(x, 0x00f0, load128(q));
    x = _mm512_mask_broadcast_i32x4(x, 0x0f00, load128(p + 8));
    return _mm512_mask_broadcast_i32x4(x, 0xf000, load128(q + 8));
  }
  static void store_columns(std::uint16_t* out, i x, std::size_t distance) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + distance),
                        _mm512_extracti64x4_epi64(x, 1));
  }
  static __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static i load_bytes(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
  static void store_bytes(std::int8_t* p, i x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
  }
  static i broadcast4(const std::int8_t* p) {
    std::int32_t x;
    __builtin_memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
  }
};

}  // namespace
}  // namespace troupe::gpu::host
