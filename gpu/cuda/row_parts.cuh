// What kernels over rows of activations share: sums over a warp, and over the partial sums that products leave. Device code.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/rows.hpp"

namespace troupe::gpu::cuda {

__device__ inline float4 add(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ inline float4 load_bf16x4(const __nv_bfloat16* from) {
  const uint2 raw = *reinterpret_cast<const uint2*>(from);
  const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.x));
  const float2 high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.y));
  return make_float4(low.x, low.y, high.x, high.y);
}
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
  return x;
}

// x[i] += the four values from at + i * step on of each split, in order; several are on their way at a time. present:
// how many of the x there are.
template <std::uint32_t kAtOnce = 4, int kCount>
__device__ inline void add_splits(float4 (&x)[kCount], const layer_output& from, std::size_t at,
                                  std::size_t step, std::size_t stride, std::uint32_t present) {
  for (std::uint32_t first = 0; first < from.splits; first += kAtOnce) {
    float4 part[kAtOnce][kCount];
#pragma unroll
    for (std::uint32_t s = 0; s < kAtOnce; ++s) {
#pragma unroll
      for (std::uint32_t i = 0; i < kCount; ++i) {
        if (first + s < from.splits && i < present) {
          part[s][i] =
              *reinterpret_cast<const float4*>(from.partial + (first + s) * stride + at + i * step);
        }
      }
    }
#pragma unroll
    for (std::uint32_t s = 0; s < kAtOnce; ++s) {
#pragma unroll
      for (std::uint32_t i = 0; i < kCount; ++i) {
        if (first + s < from.splits && i < present) x[i] = add(x[i], part[s][i]);
      }
    }
  }
}

}  // namespace troupe::gpu::cuda
