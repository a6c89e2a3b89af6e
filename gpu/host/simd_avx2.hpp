// Sixteen lanes in two AVX2 registers; names and bits as in simd_portable.hpp. Included by kernels_avx2.cpp,
// kernels_avxvnni.cpp (TROUPE_VNNI256: 8-bit dot products, VEX) and kernels_vnni256_avx512.cpp (the same, EVEX, so
// that machines with AVX-512 only can test it).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::host {
namespace {

struct simd {
  struct f {
    __m256 a, b;
  };
  struct i {
    __m256i a, b;
  };
  static constexpr int attention_rows = 3, attention_registers = 6;

  static f zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static f set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static f load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, f x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static f load_f16(const std::uint16_t* p) {
    return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 8))};
  }
  static void store_f16(std::uint16_t* p, f x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8),
                     _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
  }
  static f load_bf16(const std::uint16_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p + 8)), 16))};
  }
  static f load_u8(const std::uint8_t* p) {
    const __m128i v = load128(p);
    return to_float({_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))});
  }
  static f load_s8(const std::uint8_t* p) {
    const __m128i v = load128(p);
    return to_float({_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))});
  }
  static f add(f x, f y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static f sub(f x, f y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static f mul(f x, f y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static f div(f x, f y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static f max(f x, f y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static f min(f x, f y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static f fma(f x, f y, f z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static f abs(f x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
  }
  static f keep_if_ge(f x, f y, f z) {
    return {_mm256_and_ps(x.a, _mm256_cmp_ps(y.a, z.a, _CMP_GE_OQ)),
            _mm256_and_ps(x.b, _mm256_cmp_ps(y.b, z.b, _CMP_GE_OQ))};
  }
  static f first_lanes(f x, int n, f other) {
    const __m256i count = _mm256_set1_epi32(n), lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i lane8 = _mm256_add_epi32(lane, _mm256_set1_epi32(8));
    return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, lane))),
            _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, lane8)))};
  }

  static i set1_i(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static i add_i(i x, i y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static i sub_i(i x, i y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  template <int n>
  static i shift_left(i x) {
    return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
  }
  static f to_float(i x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static f bits_to_float(i x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
  static i float_to_bits(f x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }

  static float sum(f x) {
    const __m256 h = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
  }
  static float highest(f x) {
    const __m256 h = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
  }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  static void transpose_f16(const std::uint16_t* const* rows, std::uint32_t d, std::uint16_t* out,
                            std::size_t stride) {
    transpose_half(rows, d, out, stride);
    transpose_half(rows, d + 8, out + 8 * stride, stride);
  }

  static std::int32_t sum_i(i x) {
    const __m256i h = _mm256_add_epi32(x.a, x.b);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
  }

#ifdef TROUPE_VNNI256
  // 32 high bytes, then 32 low bytes: value = 256 * high + low, both signed.
  static void pack_activations(std::int8_t* out, i x, i y) {
    const i half = set1_i(128);
    store_bytes(out, shift_right8(add_i(x, half)), shift_right8(add_i(y, half)));
    const i low_x = sub_i(x, shift_left<8>(shift_right8(add_i(x, half))));
    const i low_y = sub_i(y, shift_left<8>(shift_right8(add_i(y, half))));
    store_bytes(out + 32, low_x, low_y);
  }
#else
  // 32 16-bit numbers; of each four weights' activations the order is 0, 2, 1, 3, as even and odd bytes are split.
  static void pack_activations(std::int8_t* out, i x, i y) {
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0,
                                           1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    const __m256i p = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    const __m256i q = _mm256_permute4x64_epi64(_mm256_packs_epi32(y.a, y.b), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_shuffle_epi8(p, order));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), _mm256_shuffle_epi8(q, order));
  }
#endif

  // Sixteen registers cannot hold a group: it is unpacked as it is used.
  template <int bits_>
  struct packed_group {
    static constexpr int bits = bits_;
    const std::uint8_t* p;
  };
  template <int bits>
  static packed_group<bits> unpack(const std::uint8_t* p) {
    return {p};
  }

  template <int first, int last, int rows, class Group>
  static void dot(const Group& g, const std::int8_t* act, i (&out)[rows]) {
    __m256i s[rows];
    dot_half<first, last, 0>(g, act, s);
    for (int r = 0; r < rows; ++r) out[r].a = s[r];
    dot_half<first, last, 1>(g, act, s);
    for (int r = 0; r < rows; ++r) out[r].b = s[r];
  }

 private:
  static __m128i load128(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }
  static __m256i load256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static __m256i broadcast4(const std::int8_t* p) {
    std::int32_t x;
    __builtin_memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
  }

  // The weights 4 * quad .. 4 * quad + 3 of outputs 8 * half .. 8 * half + 7.
  template <int bits>
  static __m256i quad_bytes(const std::uint8_t* p, int quad, int half) {
    if constexpr (bits == 8) return load256(p + 64 * quad + 32 * half);
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i b = load256(p + 64 * (quad & 3) + 32 * half);
    if (quad >= 4) b = _mm256_srli_epi16(b, 4);
    b = _mm256_and_si256(b, nibble);
    if constexpr (bits == 5) {
      std::uint32_t m;
      __builtin_memcpy(&m, p + 256 + 8 * quad + 4 * half, 4);
      const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2,
                                              2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
      const __m256i bit = _mm256_set1_epi64x(static_cast<std::int64_t>(0x8040201008040201ull));
      const __m256i h = _mm256_and_si256(
          _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<std::int32_t>(m)), spread), bit);
      b = _mm256_or_si256(b, _mm256_and_si256(_mm256_cmpeq_epi8(h, bit), _mm256_set1_epi8(16)));
    }
    if constexpr (bits == 6) {
      __m256i h = load256(p + 256 + 64 * (quad / 4) + 32 * half);
      switch (quad % 4) {
        case 0:
          h = _mm256_slli_epi16(h, 4);
          break;
        case 1:
          h = _mm256_slli_epi16(h, 2);
          break;
        case 2:
          break;
        default:
          h = _mm256_srli_epi16(h, 2);
      }
      b = _mm256_or_si256(b, _mm256_and_si256(h, _mm256_set1_epi8(0x30)));
    }
    return b;
  }

#ifdef TROUPE_VNNI256
  static __m256i dpbusd(__m256i acc, __m256i u, __m256i s) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(acc, u, s);
#else
    return _mm256_dpbusd_epi32(acc, u, s);
#endif
  }
  template <int first, int last, int half, int rows, class Group>
  static void dot_half(const Group& g, const std::int8_t* act, __m256i (&out)[rows]) {
    __m256i w[last - first];
    for (int j = first; j < last; ++j) w[j - first] = quad_bytes<Group::bits>(g.p, j, half);
    for (int r = 0; r < rows; ++r) out[r] = _mm256_setzero_si256();
    for (int j = first; j < last; ++j)
      for (int r = 0; r < rows; ++r)
        out[r] = dpbusd(out[r], w[j - first], broadcast4(act + 64 * r + 4 * j));
    for (int r = 0; r < rows; ++r) out[r] = _mm256_slli_epi32(out[r], 8);
    for (int j = first; j < last; ++j)
      for (int r = 0; r < rows; ++r)
        out[r] = dpbusd(out[r], w[j - first], broadcast4(act + 64 * r + 32 + 4 * j));
  }
  static i shift_right8(i x) {
    return {_mm256_srai_epi32(x.a, 8), _mm256_srai_epi32(x.b, 8)};
  }
  static void store_bytes(std::int8_t* p, i x, i y) {
    // Values are within a byte, so that neither pack saturates; the permutation restores the order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i packed =
        _mm256_packs_epi16(_mm256_packs_epi32(x.a, x.b), _mm256_packs_epi32(y.a, y.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(packed, order));
  }
#else
  // vpmaddwd: two 16-bit products and their sum, none of which can overflow 32 bits; vpmaddubsw would saturate.
  template <int first, int last, int half, int rows, class Group>
  static void dot_half(const Group& g, const std::int8_t* act, __m256i (&out)[rows]) {
    const __m256i low = _mm256_set1_epi16(255);
    for (int r = 0; r < rows; ++r) out[r] = _mm256_setzero_si256();
    for (int j = first; j < last; ++j) {
      const __m256i w = quad_bytes<Group::bits>(g.p, j, half);
      const __m256i even = _mm256_and_si256(w, low), odd = _mm256_srli_epi16(w, 8);
      for (int r = 0; r < rows; ++r) {
        const std::int8_t* a = act + 64 * r + 8 * j;
        out[r] = _mm256_add_epi32(out[r], _mm256_madd_epi16(even, broadcast4(a)));
        out[r] = _mm256_add_epi32(out[r], _mm256_madd_epi16(odd, broadcast4(a + 4)));
      }
    }
  }
#endif

  static void transpose_half(const std::uint16_t* const* rows, std::uint32_t d, std::uint16_t* out,
                             std::size_t stride) {
    __m256i r[8], t[8];
    for (int k = 0; k < 8; ++k) {
      r[k] = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(rows[k] + d)),
                                     load128(rows[k + 8] + d), 1);
    }
    for (int k = 0; k < 8; k += 2) {
      t[k] = _mm256_unpacklo_epi16(r[k], r[k + 1]);
      t[k + 1] = _mm256_unpackhi_epi16(r[k], r[k + 1]);
    }
    for (int k = 0; k < 8; k += 4) {
      r[k] = _mm256_unpacklo_epi32(t[k], t[k + 2]);
      r[k + 1] = _mm256_unpackhi_epi32(t[k], t[k + 2]);
      r[k + 2] = _mm256_unpacklo_epi32(t[k + 1], t[k + 3]);
      r[k + 3] = _mm256_unpackhi_epi32(t[k + 1], t[k + 3]);
    }
    for (int k = 0; k < 4; ++k) {
      store256(out + (2 * k) * stride, _mm256_unpacklo_epi64(r[k], r[k + 4]));
      store256(out + (2 * k + 1) * stride, _mm256_unpackhi_epi64(r[k], r[k + 4]));
    }
  }
  static void store256(std::uint16_t* p, __m256i x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
  }
};

}  // namespace
}  // namespace troupe::gpu::host
