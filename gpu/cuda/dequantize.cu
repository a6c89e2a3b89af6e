#include "gpu/cuda/dequantize.hpp"

#include <string>

#include "gpu/cuda/bf16_tiles.hpp"
#include "gpu/cuda/dequantize.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

// Block x: a row; a thread makes a value at a time.
template <model::tensor_type kType>
__global__ void __launch_bounds__(256)
    dequantize_kernel(const std::uint8_t* raw, std::uint32_t columns, std::uint32_t block_size,
                      std::uint32_t block_bytes, __nv_bfloat16* to, row_placement placement) {
  const std::uint64_t row = blockIdx.x;
  const std::uint32_t target = placement.target(row);
  const std::uint8_t* from = raw + row * (columns / block_size * block_bytes);
  for (std::uint32_t i = threadIdx.x; i < columns; i += blockDim.x) {
    const float value =
        block_value<kType>(from + i / block_size * block_bytes, static_cast<int>(i % block_size));
    to[bf16_place(target, i, columns)] = __float2bfloat16(value);
  }
}

template <model::tensor_type kType>
result<void> run(const std::byte* raw, std::uint64_t rows, std::uint64_t columns, __nv_bfloat16* to,
                 row_placement placement, cudaStream_t stream) {
  const model::tensor_type_info& info = model::info(kType);
  return launch("dequantize", dequantize_kernel<kType>,
                {dim3(static_cast<unsigned>(rows)), dim3(256), 0}, stream, false,
                reinterpret_cast<const std::uint8_t*>(raw), static_cast<std::uint32_t>(columns),
                info.block_size, info.block_bytes, to, placement);
}

}  // namespace

result<void> dequantize_to_bf16(model::tensor_type type, const std::byte* raw, std::uint64_t rows,
                                std::uint64_t columns, __nv_bfloat16* to, row_placement placement,
                                cudaStream_t stream) {
  using model::tensor_type;
  switch (type) {
    case tensor_type::f32:
      return run<tensor_type::f32>(raw, rows, columns, to, placement, stream);
    case tensor_type::f16:
      return run<tensor_type::f16>(raw, rows, columns, to, placement, stream);
    case tensor_type::bf16:
      return run<tensor_type::bf16>(raw, rows, columns, to, placement, stream);
    case tensor_type::q4_0:
      return run<tensor_type::q4_0>(raw, rows, columns, to, placement, stream);
    case tensor_type::q4_1:
      return run<tensor_type::q4_1>(raw, rows, columns, to, placement, stream);
    case tensor_type::q5_0:
      return run<tensor_type::q5_0>(raw, rows, columns, to, placement, stream);
    case tensor_type::q5_1:
      return run<tensor_type::q5_1>(raw, rows, columns, to, placement, stream);
    case tensor_type::q8_0:
      return run<tensor_type::q8_0>(raw, rows, columns, to, placement, stream);
    case tensor_type::q4_k:
      return run<tensor_type::q4_k>(raw, rows, columns, to, placement, stream);
    case tensor_type::q5_k:
      return run<tensor_type::q5_k>(raw, rows, columns, to, placement, stream);
    case tensor_type::q6_k:
      return run<tensor_type::q6_k>(raw, rows, columns, to, placement, stream);
    case tensor_type::f8_e4m3:
      break;  // has scales beside it: weights.cpp
  }
  return fail(ec::unsupported,
              "CUDA cannot read tensors of type " + std::to_string(static_cast<unsigned>(type)));
}

}  // namespace troupe::gpu::cuda
