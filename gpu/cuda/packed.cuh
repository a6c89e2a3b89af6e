// Packed tiles to bf16, on the device.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "gpu/cuda/packed.hpp"

namespace troupe::gpu::cuda {

// Where value (row, column) of a tile is: the thread that holds it, the 16 columns, and its place among their 8 values there.
struct fragment_place {
  std::uint32_t thread, step, pair,
      high;  // pair: 0 and 1 the two rows, 2 and 3 the same 8 columns on; high: of the two
};
__host__ __device__ inline fragment_place place_of(std::uint32_t row, std::uint32_t column) {
  return {row / 16 * 32 + row % 8 * 4 + column % 8 / 2, column / 16,
          row % 16 / 8 + column % 16 / 8 * 2, column % 2};
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

// A thread's 32 values of a tile: out[4 * step + pair], two values each. An integer n below 128 is the bf16 with the bits
// 0x4300 | n, minus 128, and one below 1024 the f16 with 0x6400 | n, minus 1024: both exact.
__device__ inline void unpack_q4(const uint4& quants, const uint2& upper, const uint2& lower,
                                 std::uint32_t (&out)[16]) {
  const __nv_bfloat162 bias = __float2bfloat162_rn(128.0f);
  const std::uint32_t words[4] = {quants.x, quants.y, quants.z, quants.w};
  const std::uint32_t scales[2][2] = {{upper.x, upper.y},
                                      {lower.x, lower.y}};  // by row and 32 columns
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const __nv_bfloat162 scale = as_bf162(scales[pair % 2][step / 2]);
      const __nv_bfloat162 q =
          __hsub2(as_bf162((words[step] >> (4 * pair) & 0x000F000F) | 0x43004300), bias);
      out[4 * step + pair] = bits_of(__hfma2(q, __low2bfloat162(scale), __high2bfloat162(scale)));
    }
  }
}
__device__ inline void unpack_q8(const uint4& first, const uint4& second, const uint2& upper,
                                 const uint2& lower, std::uint32_t (&out)[16]) {
  const __half2 bias = __float2half2_rn(1152.0f);
  const std::uint32_t words[8] = {first.x,  first.y,  first.z,  first.w,
                                  second.x, second.y, second.z, second.w};
  const std::uint32_t scales[2][2] = {{upper.x, upper.y},
                                      {lower.x, lower.y}};  // by row and 32 columns: two of 16
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const std::uint32_t word = words[2 * step + pair / 2];
      const __half2 q =
          __hsub2(as_half2(__byte_perm(word, 0x64646464, pair % 2 == 0 ? 0x4140 : 0x4342)), bias);
      const __half2 both = as_half2(scales[pair % 2][step / 2]);
      out[4 * step + pair] =
          to_bf16_pair(__hmul2(q, step % 2 == 0 ? __low2half2(both) : __high2half2(both)));
    }
  }
}

// E4M3 in bf16's places is 2^-120 of its value, subnormals too.
__device__ inline void unpack_f8(const std::uint8_t* tile, std::uint32_t thread,
                                 std::uint32_t (&out)[16]) {
  const __nv_bfloat162 bias = __float2bfloat162_rn(0x1p120f);
  const auto* words =
      reinterpret_cast<const std::uint32_t*>(tile) + thread / 32 * 256 + thread % 32;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const std::uint32_t word = words[pair % 2 * 128 + step * 32];
      const std::uint32_t high = __byte_perm(word, 0, pair / 2 == 0 ? 0x1404 : 0x3424);
      const std::uint32_t bits = (high & 0x80008000) | (high >> 4 & 0x07F007F0);
      out[4 * step + pair] = bits_of(__hmul2(as_bf162(bits), bias));
    }
  }
}
// Where value (row, column) of an f8 tile is.
__host__ __device__ inline std::uint32_t f8_place(std::uint32_t row, std::uint32_t column) {
  const std::uint32_t k = column % 16;
  return (row / 8 * 4 + column / 16) * 128 + row % 8 * 16 + k % 8 / 2 * 4 + k / 8 * 2 + k % 2;
}

// Thread `thread` (of 128)'s fragment of the tile at `tile`, in shared or global memory.
__device__ inline void unpack_fragment(const std::uint8_t* tile, packed_format format,
                                       std::uint32_t thread, std::uint32_t (&out)[16]) {
  if (format == packed_format::f8) return unpack_f8(tile, thread, out);
  const auto* quants = reinterpret_cast<const uint4*>(tile);
  const std::uint32_t row = thread / 32 * 16 + thread % 32 / 4;
  const auto* scales =
      reinterpret_cast<const uint2*>(tile + (format == packed_format::q4 ? 2048 : 4096)) + row;
  if (format == packed_format::q4) {
    unpack_q4(quants[thread], scales[0], scales[8], out);
  } else {
    unpack_q8(quants[thread], quants[128 + thread], scales[0], scales[8], out);
  }
}

// One value, with the same rounding. Not for f8, which no embedding has.
__device__ inline float unpack_value(const std::uint8_t* tile, packed_format format,
                                     std::uint32_t row, std::uint32_t column) {
  const fragment_place at = place_of(row, column);
  if (format == packed_format::q4) {
    const std::uint32_t word =
        reinterpret_cast<const std::uint32_t*>(tile)[at.thread * 4 + at.step];
    const int q = word >> (4 * at.pair + 16 * at.high) & 15;
    const __nv_bfloat162 scale =
        reinterpret_cast<const __nv_bfloat162*>(tile + 2048)[row * 2 + column / 32];
    return __bfloat162float(
        __hfma(__int2bfloat16_rn(q), __low2bfloat16(scale), __high2bfloat16(scale)));
  }
  const std::uint32_t word = at.step / 2 * 512 + at.thread * 4 + at.step % 2 * 2 + at.pair / 2;
  const int q = tile[word * 4 + at.pair % 2 * 2 + at.high] - 128;
  const __half scale = reinterpret_cast<const __half*>(tile + 4096)[row * 4 + column / 16];
  return __bfloat162float(__float2bfloat16(__half2float(__hmul(__int2half_rn(q), scale))));
}

}  // namespace troupe::gpu::cuda
