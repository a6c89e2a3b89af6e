#include <cuda_fp16.h>

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

// Block: a tile; thread: a slot.
__global__ void packed_kernel(std::uint8_t* tiles, packed_format format, std::uint64_t seed,
                              float scale) {
  const bool q4 = format == packed_format::q4;
  std::uint8_t* tile = tiles + std::size_t{blockIdx.x} * (q4 ? 2560 : 4608);
  const std::uint64_t at = seed ^ (std::uint64_t{blockIdx.x} << 12 | threadIdx.x << 3);
  for (int part = 0; part < (q4 ? 1 : 2); ++part) {
    const std::uint64_t a = mix(at + 2 * part), b = mix(at + 2 * part + 1);
    reinterpret_cast<uint4*>(tile)[part * 128 + threadIdx.x] =
        make_uint4(static_cast<unsigned>(a), static_cast<unsigned>(a >> 32),
                   static_cast<unsigned>(b), static_cast<unsigned>(b >> 32));
  }
  if (q4) {
    reinterpret_cast<__nv_bfloat162*>(tile + 2048)[threadIdx.x] =
        __floats2bfloat162_rn(scale, -7.5f * scale);
  } else {
    reinterpret_cast<__half2*>(tile + 4096)[threadIdx.x] = __floats2half2_rn(scale, scale);
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
  return launch("fill_random_packed", packed_kernel,
                {dim3(static_cast<unsigned>(count)), dim3(128), 0}, stream, false,
                reinterpret_cast<std::uint8_t*>(tiles), format, seed, scale);
}

result<void> fill_constant(float* to, std::size_t count, float value, cudaStream_t stream) {
  return launch("fill_constant", constant_kernel,
                {dim3(static_cast<unsigned>((count + 255) / 256)), dim3(256), 0}, stream, false, to,
                count, value);
}

}  // namespace troupe::gpu::cuda
