// Packed tiles to bf16, on the device.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "gpu/cuda/packed.hpp"

namespace troupe::gpu::cuda {

// Where value (row, column) of a band's tile is: the lane that holds it, the 16 columns, and its place among their 8 values
// there.
struct fragment_place {
  std::uint32_t lane, step, pair,
      high;  // pair: 0 and 1 the two rows, 2 and 3 the same 8 columns on; high: of the two
};
__host__ __device__ inline fragment_place place_of(std::uint32_t row, std::uint32_t column) {
  return {row % 8 * 4 + column % 8 / 2, column / 16, row / 8 + column % 16 / 8 * 2, column % 2};
}

__device__ inline __half2 as_half2(std::uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}
__device__ inline __nv_bfloat162 as_bf162(std::uint32_t bits) {
  return *reinterpret_cast<const __nv_bfloat162*>(&bits);
}
__device__ inline std::uint32_t bits_of(__nv_bfloat162 v) {
  return *reinterpret_cast<const std::uint32_t*>(&v);
}
__device__ inline std::uint32_t to_bf16_pair(__half2 h) {
  const float2 f = __half22float2(h);
  return bits_of(__floats2bfloat162_rn(f.x, f.y));
}

// Of a 4-bit tile: 2^133 of its values' scale is what makes them of a nibble in the lowest bits, and all is 2^-32.
__host__ __device__ constexpr float nibble_factor(bool lower_row) {
  return lower_row ? 0x1p97f : 0x1p101f;
}

// Pair j (of 8) of 6 bits in three words: in the lowest bits of both halves.
__device__ __forceinline__ std::uint32_t six_bits(std::uint32_t a, std::uint32_t b, std::uint32_t c,
                                                  int j) {
  constexpr std::uint32_t low = 0x000F000F, high = 0x00300030, all = low | high;
  if (j == 6) return (a >> 12 & low) | (c >> 8 & high);
  if (j == 7) return (b >> 12 & low) | (c >> 10 & high);
  return (j / 2 == 0 ? a : j / 2 == 1 ? b : c) >> (6 * (j % 2)) & all;
}

// The scales of a row of a q4_k group: scale and negated minimum of 256 values, each as the sum of two bf16, which holds an
// f16 exactly, so that products of it are rounded once.
struct q4_k_row {
  std::uint32_t words[3];
  __nv_bfloat162 coarse, fine;
  __device__ __forceinline__ q4_k_row(const std::uint8_t* scales, std::uint32_t row,
                                      bool lower_row) {
    const uint4 block = reinterpret_cast<const uint4*>(scales)[row];
    words[0] = block.y;
    words[1] = block.z;
    words[2] = block.w;
    float2 both = __half22float2(as_half2(block.x));
    // 2^6: six_bits are taken for 2^-6 of what they are.
    both.x *= nibble_factor(lower_row) * 0x1p6f;
    both.y *= -0x1p-26f;
    coarse = __floats2bfloat162_rn(both.x, both.y);
    // By hand: the compiler would take `coarse` apart and put it together again for each use.
    fine = __floats2bfloat162_rn(both.x - __uint_as_float(bits_of(coarse) << 16),
                                 both.y - __uint_as_float(bits_of(coarse) & 0xFFFF0000u));
  }
  // (scale, minimum) of the 32 values from 32 j on.
  __device__ __forceinline__ __nv_bfloat162 pair(int j) const {
    const __nv_bfloat162 n = __hmul2(as_bf162(six_bits(words[0], words[1], words[2], j)),
                                     __float2bfloat162_rn(0x1p127f));
    return __hfma2(n, coarse, __hmul2(n, fine));
  }
};

// What a lane needs of the scales of a group of tiles: those of its row of a band, and of the one 8 below. They are read again for
// each tile where that costs no more than keeping them.
template <packed_format kFormat>
struct lane_scales {
  static constexpr bool in_registers = false;
  const std::uint8_t* at;
  __device__ __forceinline__ lane_scales(const std::uint8_t* scales, std::uint32_t) : at(scales) {}
};
template <>
struct lane_scales<packed_format::q4_k> {
  static constexpr bool in_registers = true;
  q4_k_row upper, lower;
  __device__ __forceinline__ lane_scales(const std::uint8_t* scales, std::uint32_t lane)
      : upper(scales, lane / 4, false), lower(scales, lane / 4 + 8, true) {}
};

// (scale, minimum) of 32 columns of a row of a 4-bit band's tile.
template <packed_format kFormat>
__device__ __forceinline__ void load_q4_scales(const std::uint8_t* scales, std::uint32_t row,
                                               bool lower_row, __nv_bfloat162 (&out)[2]) {
  if constexpr (kFormat == packed_format::q4) {
    const uint2 both = reinterpret_cast<const uint2*>(scales)[row];
    out[0] = as_bf162(both.x);
    out[1] = as_bf162(both.y);
  } else {
    static_assert(kFormat == packed_format::q4_0);
    const __nv_bfloat162 both = reinterpret_cast<const __nv_bfloat162*>(scales)[row];
    const __nv_bfloat162 minima =
        __hmul2(both, __float2bfloat162_rn(lower_row ? -0x1p-126f : -0x1p-130f));
    out[0] = __lows2bfloat162(both, minima);
    out[1] = __highs2bfloat162(both, minima);
  }
}
// The same of tile `sub` of a group.
__device__ __forceinline__ void tile_scales(const q4_k_row& row, std::uint32_t sub,
                                            __nv_bfloat162 (&out)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    out[half] = row.pair(half);
    // Written out: an index that is not known when compiling would cost a shift a word.
#pragma unroll
    for (int k = 1; k < 4; ++k) {
      if (sub == static_cast<std::uint32_t>(k)) out[half] = row.pair(2 * k + half);
    }
  }
}

// A thread's 32 values of a tile: out[4 * step + pair], two values each.
template <packed_format kFormat>
__device__ __forceinline__ void unpack_q4(const std::uint8_t* quants,
                                          const lane_scales<kFormat>& scales, std::uint32_t sub,
                                          std::uint32_t lane, std::uint32_t (&out)[16]) {
  const uint4 both = reinterpret_cast<const uint4*>(quants)[lane];
  const std::uint32_t words[4] = {both.x, both.y, both.z, both.w};
  __nv_bfloat162 upper[2], lower[2];  // by 32 columns
  if constexpr (kFormat == packed_format::q4_k) {
    tile_scales(scales.upper, sub, upper);
    tile_scales(scales.lower, sub, lower);
  } else {
    load_q4_scales<kFormat>(scales.at, lane / 4, false, upper);
    load_q4_scales<kFormat>(scales.at, lane / 4 + 8, true, lower);
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const __nv_bfloat162 scale = pair % 2 == 0 ? upper[step / 2] : lower[step / 2];
      const std::uint32_t q =
          words[step] >> (pair / 2 * 8) & (pair % 2 == 0 ? 0x000F000Fu : 0x00F000F0u);
      out[4 * step + pair] =
          bits_of(__hfma2(as_bf162(q), __low2bfloat162(scale), __high2bfloat162(scale)));
    }
  }
}

// An integer n below 1024 is the f16 with the bits 0x6400 | n, minus 1024: exact.
__device__ __forceinline__ void unpack_q8(const std::uint8_t* quants, const std::uint8_t* scales,
                                          std::uint32_t lane, std::uint32_t (&out)[16]) {
  const __half2 bias = __float2half2_rn(1152.0f);
  const uint4 first = reinterpret_cast<const uint4*>(quants)[lane],
              second = reinterpret_cast<const uint4*>(quants)[32 + lane];
  const std::uint32_t row = lane / 4;
  const std::uint32_t words[8] = {first.x,  first.y,  first.z,  first.w,
                                  second.x, second.y, second.z, second.w};
  const __half2 upper = reinterpret_cast<const __half2*>(scales)[row],
                lower =
                    reinterpret_cast<const __half2*>(scales)[row + 8];  // of two times 32 columns
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const std::uint32_t word = words[2 * step + pair / 2];
      const __half2 q =
          __hsub2(as_half2(__byte_perm(word, 0x64646464, pair % 2 == 0 ? 0x4140 : 0x4342)), bias);
      const __half2 both = pair % 2 == 0 ? upper : lower;
      out[4 * step + pair] =
          to_bf16_pair(__hmul2(q, step / 2 == 0 ? __low2half2(both) : __high2half2(both)));
    }
  }
}

// Of a row of a band in tile `sub` of a q6_k group, by 16 columns: what makes values of 6 bits in a bf16's lowest ones, and what
// is then subtracted.
struct q6_scales {
  __nv_bfloat162 scale[2], minimum[2];
  __device__ __forceinline__ q6_scales(const std::uint8_t* scales, std::uint32_t row,
                                       std::uint32_t sub) {
    const std::uint32_t four =
        reinterpret_cast<const std::uint32_t*>(scales)[row * 4 + sub] ^ 0x80808080u;
    const float factor =
        __half2float(reinterpret_cast<const __half*>(scales + 256)[row]) * 0x1p101f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // An integer n below 1024 is the f16 with the bits 0x6400 | n, minus 1024.
      const float2 two = __half22float2(
          __hsub2(as_half2(__byte_perm(four, 0x64646464, half == 0 ? 0x4140 : 0x4342)),
                  __float2half2_rn(1152.0f)));
      scale[half] = __floats2bfloat162_rn(two.x * factor, two.y * factor);
      minimum[half] = __hmul2(scale[half], __float2bfloat162_rn(-0x1p-128f));
    }
  }
  // step: of 16 columns.
  __device__ __forceinline__ __nv_bfloat162 value(std::uint32_t n, int step) const {
    const __nv_bfloat162 s = scale[step / 2], m = minimum[step / 2];
    return step % 2 == 0 ? __hfma2(as_bf162(n), __low2bfloat162(s), __low2bfloat162(m))
                         : __hfma2(as_bf162(n), __high2bfloat162(s), __high2bfloat162(m));
  }
};
__device__ __forceinline__ void unpack_q6(const std::uint8_t* quants, const std::uint8_t* scales,
                                          std::uint32_t sub, std::uint32_t lane,
                                          std::uint32_t (&out)[16]) {
  const uint4 first = reinterpret_cast<const uint4*>(quants)[lane];
  const uint2 second = reinterpret_cast<const uint2*>(quants + 512)[lane];
  const q6_scales upper(scales, lane / 4, sub), lower(scales, lane / 4 + 8, sub);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const int j = step % 2 * 4 + pair;
      const std::uint32_t n = step < 2 ? six_bits(first.x, first.y, first.z, j)
                                       : six_bits(first.w, second.x, second.y, j);
      out[4 * step + pair] = bits_of((pair % 2 == 0 ? upper : lower).value(n, step));
    }
  }
}

// E4M3 in bf16's places is 2^-120 of its value, subnormals too.
__device__ __forceinline__ void unpack_f8(const std::uint8_t* tile, std::uint32_t lane,
                                          std::uint32_t (&out)[16]) {
  const __nv_bfloat162 bias = __float2bfloat162_rn(0x1p120f);
  const auto* words = reinterpret_cast<const std::uint32_t*>(tile) + lane;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const std::uint32_t word = words[pair % 2 * 128 + step * 32];
      // Two bytes, each with its sign eight times above it; __byte_perm would ignore what says so.
      std::uint32_t two;
      asm("prmt.b32 %0, %1, 0, %2;" : "=r"(two) : "r"(word), "r"(pair / 2 == 0 ? 0x9180 : 0xB3A2));
      const std::uint32_t bits = two << 4 & 0x87F087F0;
      out[4 * step + pair] = bits_of(__hmul2(as_bf162(bits), bias));
    }
  }
}
// Where value (row, column) of an f8 tile is.
__host__ __device__ inline std::uint32_t f8_place(std::uint32_t row, std::uint32_t column) {
  const std::uint32_t k = column % 16;
  return (row / 8 * 4 + column / 16) * 128 + row % 8 * 16 + k % 8 / 2 * 4 + k / 8 * 2 + k % 2;
}

// A band's part of a tile in shared or global memory: its integers, its group's scales, which tile of the group it is.
struct packed_tile {
  const std::uint8_t *quants, *scales;
  std::uint32_t sub;
};
// Band `band` of tile `step` of a row of tiles at `row`.
__device__ inline packed_tile tile_of(const std::uint8_t* row, packed_format format,
                                      std::uint32_t step, std::uint32_t band) {
  const std::uint32_t sub = step % packed_group(format);
  const std::uint8_t* group = row + std::size_t{step - sub} * packed_tile_bytes(format);
  return {group + band_quants_at(format, sub, band), group + band_scales_at(format, band), sub};
}

// A lane's fragment of a band's tile, packed_gain(kFormat) times smaller. Always inlined, with what it calls: products of
// wgmma are serialized across a call.
template <packed_format kFormat>
__device__ __forceinline__ void unpack_fragment(const std::uint8_t* quants,
                                                const lane_scales<kFormat>& scales,
                                                std::uint32_t sub, std::uint32_t lane,
                                                std::uint32_t (&out)[16]) {
  if constexpr (kFormat == packed_format::f8) {
    unpack_f8(quants, lane, out);
  } else if constexpr (kFormat == packed_format::q8) {
    unpack_q8(quants, scales.at, lane, out);
  } else if constexpr (kFormat == packed_format::q6_k) {
    unpack_q6(quants, scales.at, sub, lane, out);
  } else {
    unpack_q4<kFormat>(quants, scales, sub, lane, out);
  }
}
template <packed_format kFormat>
__device__ __forceinline__ void unpack_fragment(const packed_tile& tile, std::uint32_t lane,
                                                std::uint32_t (&out)[16]) {
  unpack_fragment<kFormat>(tile.quants, lane_scales<kFormat>(tile.scales, lane), tile.sub, lane,
                           out);
}

// Calls `f` with the format as a constant.
template <class F>
__device__ __forceinline__ void with_format(packed_format format, F&& f) {
  using enum packed_format;
  switch (format) {
    case none:
      break;
    case q4:
      f.template operator()<q4>();
      break;
    case q4_0:
      f.template operator()<q4_0>();
      break;
    case q4_k:
      f.template operator()<q4_k>();
      break;
    case q6_k:
      f.template operator()<q6_k>();
      break;
    case q8:
      f.template operator()<q8>();
      break;
    case f8:
      f.template operator()<f8>();
      break;
  }
}
__device__ inline void unpack_fragment(packed_format format, const packed_tile& tile,
                                       std::uint32_t lane, std::uint32_t (&out)[16]) {
  with_format(format, [&]<packed_format kFormat>() { unpack_fragment<kFormat>(tile, lane, out); });
}

template <packed_format kFormat>
__device__ inline float q4_value(const packed_tile& tile, std::uint32_t row, std::uint32_t column) {
  const fragment_place at = place_of(row, column);
  const std::uint32_t word =
      reinterpret_cast<const std::uint32_t*>(tile.quants)[at.lane * 4 + at.step];
  const std::uint32_t q =
      word >> (16 * at.high + at.pair / 2 * 8) & (at.pair % 2 == 0 ? 0x0Fu : 0xF0u);
  __nv_bfloat162 scales[2];
  if constexpr (kFormat == packed_format::q4_k) {
    tile_scales(q4_k_row(tile.scales, row, row >= 8), tile.sub, scales);
  } else {
    load_q4_scales<kFormat>(tile.scales, row, row >= 8, scales);
  }
  const __nv_bfloat162 scale = column < 32 ? scales[0] : scales[1];
  return __bfloat162float(__hfma(__ushort_as_bfloat16(static_cast<unsigned short>(q)),
                                 __low2bfloat16(scale), __high2bfloat16(scale))) *
         packed_gain(kFormat);
}

// The value in `row` of a row of tiles, with the same rounding. Not for f8, which no embedding has.
__device__ inline float unpack_value(const std::uint8_t* tiles, packed_format format,
                                     std::uint32_t row, std::uint32_t column) {
  using enum packed_format;
  const packed_tile tile = tile_of(tiles, format, column / 64, row / 16);
  row %= 16;
  column %= 64;
  if (format == q4) return q4_value<q4>(tile, row, column);
  if (format == q4_0) return q4_value<q4_0>(tile, row, column);
  if (format == q4_k) return q4_value<q4_k>(tile, row, column);
  const fragment_place at = place_of(row, column);
  if (format == q8) {
    const std::uint32_t word = at.step / 2 * 128 + at.lane * 4 + at.step % 2 * 2 + at.pair / 2;
    const int q = tile.quants[word * 4 + at.pair % 2 * 2 + at.high] - 128;
    const __half scale = reinterpret_cast<const __half*>(tile.scales)[row * 2 + column / 32];
    return __bfloat162float(__float2bfloat16(__half2float(__hmul(__int2half_rn(q), scale))));
  }
  const auto* quants = reinterpret_cast<const std::uint32_t*>(tile.quants);
  std::uint32_t words[6];
  for (std::uint32_t i = 0; i < 6; ++i)
    words[i] = i < 4 ? quants[at.lane * 4 + i] : quants[128 + at.lane * 2 + i - 4];
  const q6_scales scales(tile.scales, row, tile.sub);
  __nv_bfloat162 values{};
  for (int j = 0; j < 8; ++j) {
    if (j != static_cast<int>(at.step % 2 * 4 + at.pair)) continue;
    values = scales.value(at.step < 2 ? six_bits(words[0], words[1], words[2], j)
                                      : six_bits(words[3], words[4], words[5], j),
                          static_cast<int>(at.step));
  }
  return __bfloat162float(at.high == 0 ? __low2bfloat16(values) : __high2bfloat16(values)) *
         packed_gain(format);
}

}  // namespace troupe::gpu::cuda
