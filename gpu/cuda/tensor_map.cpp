#include "gpu/cuda/tensor_map.hpp"

#include <cuda_runtime.h>

#include <string>

#include "gpu/cuda/status.hpp"

namespace troupe::gpu::cuda {
namespace {

// The driver's function, fetched at run time: the program must start where there is no driver to link to.
result<decltype(&cuTensorMapEncodeTiled)> encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  TROUPE_CHECK(checked(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                        cudaEnableDefault, &found),
                       "looking up cuTensorMapEncodeTiled"));
  if (function == nullptr || found != cudaDriverEntryPointSuccess) {
    return fail(
        ec::unsupported,
        "the NVIDIA driver has no cuTensorMapEncodeTiled; install a driver for CUDA 13 (580)");
  }
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

CUtensorMapDataType driver_type(half_type type) {
  return type == half_type::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

result<CUtensorMap> encode(const void* data, CUtensorMapDataType type, std::uint32_t rank,
                           const std::uint64_t* sizes, const std::uint64_t* strides,
                           const std::uint32_t* box,
                           CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
  TROUPE_TRY(const auto encode_tiled, encoder());
  const std::uint32_t steps[4] = {1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult code =
      encode_tiled(&map, type, rank, const_cast<void*>(data), sizes, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code != CUDA_SUCCESS) {
    return fail(ec::internal, "cuTensorMapEncodeTiled: code " + std::to_string(code) + " for " +
                                  std::to_string(sizes[0]) + " x " + std::to_string(sizes[1]));
  }
  return map;
}

}  // namespace

result<CUtensorMap> make_matrix_map(const void* data, half_type type, std::uint64_t rows,
                                    std::uint64_t columns, std::uint32_t box_rows) {
  TROUPE_ASSERT(columns % 8 == 0 && box_rows <= 256);
  const std::uint64_t sizes[] = {columns, rows};
  const std::uint64_t strides[] = {columns * 2};
  const std::uint32_t box[] = {box_columns, box_rows};
  return encode(data, driver_type(type), 2, sizes, strides, box);
}

result<CUtensorMap> make_byte_map(const void* data, std::uint64_t rows, std::uint64_t columns,
                                  std::uint32_t box_rows) {
  TROUPE_ASSERT(columns % 16 == 0 && box_rows <= 256);
  const std::uint64_t sizes[] = {columns, rows};
  const std::uint64_t strides[] = {columns};
  const std::uint32_t box[] = {2 * box_columns, box_rows};
  return encode(data, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, sizes, strides, box);
}

result<CUtensorMap> make_arena_map(const void* data, half_type type, std::uint64_t depth,
                                   std::uint64_t depth_bytes, std::uint64_t rows,
                                   std::uint64_t columns, std::uint32_t box_rows) {
  const std::uint64_t sizes[] = {columns, rows, depth};
  const std::uint64_t strides[] = {columns * 2, depth_bytes};
  const std::uint32_t box[] = {box_columns, box_rows, 1};
  return encode(data, driver_type(type), 3, sizes, strides, box);
}

result<CUtensorMap> make_tile_map(const bf16_tiles& tiles, std::uint32_t box_tiles) {
  const std::uint64_t sizes[] = {bf16_tile_side, bf16_tile_side, tiles.row_tiles,
                                 tiles.column_tiles};
  const std::uint64_t strides[] = {
      bf16_row_bytes, std::uint64_t{tiles.column_tiles} * bf16_tile_bytes, bf16_tile_bytes};
  const std::uint32_t box[] = {bf16_tile_side, bf16_tile_side, box_tiles, 1};
  return encode(tiles.data, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, sizes, strides, box,
                CU_TENSOR_MAP_SWIZZLE_NONE);
}

}  // namespace troupe::gpu::cuda
