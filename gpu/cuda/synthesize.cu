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

__global__ void random_kernel(__nv_bfloat16* to, std::size_t count, std::uint64_t seed, float half_width) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = (std::size_t{blockIdx.x} * blockDim.x + threadIdx.x) * 4; i < count; i += stride * 4) {
    const std::uint64_t bits = mix(seed ^ i);
    for (std::size_t k = 0; k < 4 && i + k < count; ++k) {
      const float unit = static_cast<float>(bits >> (16 * k) & 0xFFFF) * (2.0f / 65535.0f) - 1.0f;
      to[i + k] = __float2bfloat16(unit * half_width);
    }
  }
}

__global__ void constant_kernel(float* to, std::size_t count, float value) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) to[i] = value;
}

}  // namespace

result<void> fill_random(__nv_bfloat16* to, std::size_t count, std::uint64_t seed, float deviation,
                         cudaStream_t stream) {
  return launch("fill_random", random_kernel, {dim3(1056), dim3(256), 0}, stream, false, to, count, seed,
                deviation * 1.7320508f);
}

result<void> fill_constant(float* to, std::size_t count, float value, cudaStream_t stream) {
  return launch("fill_constant", constant_kernel, {dim3(static_cast<unsigned>((count + 255) / 256)), dim3(256), 0},
                stream, false, to, count, value);
}

}  // namespace troupe::gpu::cuda
