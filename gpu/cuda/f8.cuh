// E4M3: a value is a byte times a scale that it shares with its row. Device code only.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

namespace troupe::gpu::cuda {

inline constexpr float f8_largest = 448.0f;

// The largest of what a block's kWarps warps have, of no less than 0. parts: shared memory for a value a warp.
template <int kWarps>
__device__ inline float most_of_block(float most, float* parts) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, i));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = most;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) most = fmaxf(most, parts[w]);
  return most;
}
// Of a row whose largest absolute value is `most`.
__device__ inline float f8_scale(float most) {
  return most > 1e-30f ? most / f8_largest : 1.0f;  // below, the inverse would be infinite
}
// Two scaled values, the first in the lower byte.
__device__ inline std::uint32_t f8_pair(float first, float second) {
  return __nv_cvt_float2_to_fp8x2(make_float2(first, second), __NV_SATFINITE, __NV_E4M3);
}

}  // namespace troupe::gpu::cuda
