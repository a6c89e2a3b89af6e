#include <cuda_fp16.h>

#include <cmath>

#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/synthesize.hpp"

namespace troupe::gpu::cuda {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a bijection of the counter with good bits everywhere.
__device__ inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return x ^ x >> 31;
}

__global__ void random_kernel(__nv_bfloat16* to, std::size_t count, std::uint64_t seed,
                              float half_width) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = (std::size_t{blockIdx.x} * blockDim.x + threadIdx.x) * 4; i < count;
       i += stride * 4) {
    const std::uint64_t bits = mix(seed ^ i);
    for (std::size_t k = 0; k < 4 && i + k < count; ++k) {
      const float unit = static_cast<float>(bits >> (16 * k) & 0xFFFF) * (2.0f / 65535.0f) - 1.0f;
      to[i + k] = __float2bfloat16(unit * half_width);
    }
  }
}

// Block: a group of tiles, all of whose scales are the same.
template <packed_format kFormat>
__global__ void packed_kernel(std::uint8_t* tiles, std::uint64_t seed, float scale) {
  constexpr std::uint32_t kQuantBytes = packed_group(kFormat) * packed_quant_bytes(kFormat);
  std::uint8_t* group =
      tiles + std::size_t{blockIdx.x} * (kQuantBytes + packed_scale_bytes(kFormat));
  for (std::uint32_t i = threadIdx.x; i < kQuantBytes / 16; i += blockDim.x) {
    const std::uint64_t at = seed ^ (std::uint64_t{blockIdx.x} << 12 | i << 1);
    const std::uint64_t a = mix(at), b = mix(at + 1);
    reinterpret_cast<uint4*>(group)[i] =
        make_uint4(static_cast<unsigned>(a), static_cast<unsigned>(a >> 32),
                   static_cast<unsigned>(b), static_cast<unsigned>(b >> 32));
  }
  if (threadIdx.x >= 64) return;
  const std::uint32_t row = threadIdx.x % 16;
  std::uint8_t* scales = group + band_scales_at(kFormat, threadIdx.x / 16);
  if constexpr (kFormat == packed_format::q4_k) {
    // 32 parts of the scale, 30 quarters of it: values from -7.5 to 7.5 scales.
    constexpr std::uint32_t pair = 32 | 30 << 16, rest = pair | pair << 6;
    constexpr std::uint32_t lows = (pair & 0x000F000F) << 12, highs = pair & 0x00300030;
    const __half2 all = __floats2half2_rn(scale / 32.0f, scale / 4.0f);
    reinterpret_cast<uint4*>(scales)[row] =
        make_uint4(*reinterpret_cast<const std::uint32_t*>(&all), rest | lows, rest | lows,
                   rest | highs << 8 | highs << 10);
  } else {
    static_assert(kFormat == packed_format::q6_k);
    reinterpret_cast<uint4*>(scales)[row] =
        make_uint4(0x10101010u, 0x10101010u, 0x10101010u, 0x10101010u);
    reinterpret_cast<__half*>(scales + 256)[row] = __float2half_rn(scale / 16.0f);
  }
}

__global__ void constant_kernel(float* to, std::size_t count, float value) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) to[i] = value;
}

}  // namespace

result<void> fill_random(__nv_bfloat16* to, std::size_t count, std::uint64_t seed, float deviation,
                         cudaStream_t stream) {
  return launch("fill_random", random_kernel, {dim3(1056), dim3(256), 0}, stream, false, to, count,
                seed, deviation * 1.7320508f);
}

result<void> fill_random_packed(std::byte* tiles, std::size_t count, packed_format format,
                                std::uint64_t seed, float scale, cudaStream_t stream) {
  TROUPE_ASSERT(format == packed_format::q4_k || format == packed_format::q6_k);
  // Of three bits, so that values of q4_k are numbers in bf16 too: rounded, one scale for all weights would err in one direction.
  int exponent = 0;
  const float rounded = std::round(std::frexp(scale, &exponent) * 8.0f);
  scale = std::ldexp(rounded, exponent - 3);
  return launch("fill_random_packed",
                format == packed_format::q4_k ? packed_kernel<packed_format::q4_k>
                                              : packed_kernel<packed_format::q6_k>,
                {dim3(static_cast<unsigned>(count / packed_group(format))), dim3(128), 0}, stream,
                false, reinterpret_cast<std::uint8_t*>(tiles), seed, scale);
}

result<void> fill_constant(float* to, std::size_t count, float value, cudaStream_t stream) {
  return launch("fill_constant", constant_kernel,
                {dim3(static_cast<unsigned>((count + 255) / 256)), dim3(256), 0}, stream, false, to,
                count, value);
}

}  // namespace troupe::gpu::cuda
