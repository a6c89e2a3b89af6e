// Tensors of any type to bf16 matrices on the device. Stateless; the thread that owns the stream.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/result.hpp"
#include "model/tensor.hpp"

namespace troupe::gpu::cuda {

// Where a tensor's rows go in a fused matrix: row r becomes first + r, or, interleaved, the groups of 8 rows of two
// tensors alternate and `first` is 0 or 8.
struct row_placement {
  std::uint32_t first = 0;
  bool interleaved = false;
  __host__ __device__ std::uint32_t target(std::uint64_t row) const {
    return first + static_cast<std::uint32_t>(interleaved ? row / 8 * 16 + row % 8 : row);
  }
};

// raw: the tensor's bytes on the device. to: a matrix of `columns` in tiles (bf16_tiles.hpp).
result<void> dequantize_to_bf16(model::tensor_type type, const std::byte* raw, std::uint64_t rows,
                                std::uint64_t columns, __nv_bfloat16* to, row_placement placement,
                                cudaStream_t stream);

}  // namespace troupe::gpu::cuda
