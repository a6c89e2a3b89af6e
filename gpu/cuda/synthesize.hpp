// Random numbers on the device, for weights nobody downloads. Counter-based: value i depends on seed and i alone.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/result.hpp"
#include "gpu/cuda/packed.hpp"

namespace troupe::gpu::cuda {

// Uniform with the standard deviation `deviation`.
result<void> fill_random(__nv_bfloat16* to, std::size_t count, std::uint64_t seed, float deviation,
                         cudaStream_t stream);
// Tiles of a q4_k or q6_k matrix, whole groups, with random integers and one scale, rounded to three bits: values in about +- 8 or +- 32
// times it.
result<void> fill_random_packed(std::byte* tiles, std::size_t count, packed_format format,
                                std::uint64_t seed, float scale, cudaStream_t stream);
result<void> fill_constant(float* to, std::size_t count, float value, cudaStream_t stream);

}  // namespace troupe::gpu::cuda
