// Slots of packed tiles to bf16, on the device.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "gpu/cuda/packed.hpp"

namespace troupe::gpu::cuda {

__device__ inline __half2 as_half2(std::uint32_t bits) { return *reinterpret_cast<const __half2*>(&bits); }
__device__ inline std::uint32_t to_bf16_pair(__half2 h) {
  const float2 f = __half22float2(h);
  const __nv_bfloat162 b = __floats2bfloat162_rn(f.x, f.y);
  return *reinterpret_cast<const std::uint32_t*>(&b);
}

// 32 values of a slot, in 16 words of two. An integer n below 128 is the bf16 with the bits 0x4300 | n, minus 128, and one
// below 1024 the f16 with 0x6400 | n, minus 1024: both exact.
__device__ inline void unpack_q4(const uint4& quants, __nv_bfloat162 scale_min, std::uint32_t (&out)[16]) {
  const __nv_bfloat162 scale = __low2bfloat162(scale_min), minimum = __high2bfloat162(scale_min);
  const __nv_bfloat162 bias = __float2bfloat162_rn(128.0f);
  const std::uint32_t words[4] = {quants.x, quants.y, quants.z, quants.w};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t bits = (words[w] >> (4 * i) & 0x000F000F) | 0x43004300;
      const __nv_bfloat162 value = __hfma2(__hsub2(*reinterpret_cast<const __nv_bfloat162*>(&bits), bias), scale, minimum);
      out[4 * w + i] = *reinterpret_cast<const std::uint32_t*>(&value);
    }
  }
}
__device__ inline void unpack_q8(const uint4& low, const uint4& high, __half2 scales, std::uint32_t (&out)[16]) {
  const __half2 scale[2] = {__low2half2(scales), __high2half2(scales)}, bias = __float2half2_rn(1152.0f);
  const std::uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int w = 0; w < 8; ++w) {
    const __half2 even = __hsub2(as_half2(__byte_perm(words[w], 0x64646464, 0x4140)), bias);
    const __half2 odd = __hsub2(as_half2(__byte_perm(words[w], 0x64646464, 0x4342)), bias);
    out[2 * w] = to_bf16_pair(__hmul2(even, scale[w / 4]));
    out[2 * w + 1] = to_bf16_pair(__hmul2(odd, scale[w / 4]));
  }
}

// Slot `slot` of the tile at `tile`, in shared or global memory.
__device__ inline void unpack_slot(const std::uint8_t* tile, packed_format format, std::uint32_t slot,
                                   std::uint32_t (&out)[16]) {
  const auto* quants = reinterpret_cast<const uint4*>(tile);
  if (format == packed_format::q4) {
    unpack_q4(quants[slot], reinterpret_cast<const __nv_bfloat162*>(tile + 2048)[slot], out);
  } else {
    unpack_q8(quants[slot], quants[128 + slot], reinterpret_cast<const __half2*>(tile + 4096)[slot], out);
  }
}

}  // namespace troupe::gpu::cuda
