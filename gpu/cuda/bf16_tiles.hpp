// Where weight matrices in bf16 have their values: tiles of 64 rows by 64 columns, 8 KiB each, that lie one after the other
// along the columns, as packed ones do (packed.hpp). A copy of the copy engine is one piece of memory then: a tile is in memory what the tensor cores want in shared memory, rows of 128 bytes under the 128-byte swizzle,
// which puts the 16 bytes i of row r at i ^ r % 8.
//
// Tiles are whole. Columns that only fill up the last one are zero, or at least finite: they meet zeros of the activations.
// Rows that do so may hold anything, for nobody stores their products.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::cuda {

inline constexpr std::uint32_t bf16_tile_side = 64, bf16_row_bytes = bf16_tile_side * 2,
                               bf16_tile_bytes = bf16_tile_side * bf16_row_bytes;

// Along so many rows or columns.
__host__ __device__ constexpr std::uint32_t count_bf16_tiles(std::uint32_t length) {
  return (length + bf16_tile_side - 1) / bf16_tile_side;
}
// Of a matrix, with what fills up its tiles.
__host__ __device__ constexpr std::size_t count_bf16_values(std::uint32_t rows,
                                                            std::uint32_t columns) {
  return std::size_t{count_bf16_tiles(rows)} * count_bf16_tiles(columns) * bf16_tile_side *
         bf16_tile_side;
}
// Of a matrix of `columns`, which of its values (row, column) is. Eight columns from a multiple of 8 on lie side by side.
__host__ __device__ constexpr std::size_t bf16_place(std::uint32_t row, std::uint32_t column,
                                                     std::uint32_t columns) {
  constexpr std::uint32_t side = bf16_tile_side;
  const std::size_t tile = std::size_t{row / side} * count_bf16_tiles(columns) + column / side;
  return (tile * side + row % side) * side + ((column % side / 8) ^ (row % 8)) * 8 + column % 8;
}

// What kernels copy from.
struct bf16_tiles {
  const std::uint8_t* data;
  std::uint32_t row_tiles, column_tiles;

  static bf16_tiles of(const __nv_bfloat16* data, std::uint32_t rows, std::uint32_t columns) {
    return {reinterpret_cast<const std::uint8_t*>(data), count_bf16_tiles(rows),
            count_bf16_tiles(columns)};
  }
  // Row `row` of the column tile `step`, and behind it the rest of its tile; row: a multiple of 8. Beyond the last row tile: of
  // that one.
  __host__ __device__ const std::uint8_t* at(std::uint32_t row, std::uint32_t step) const {
    const std::uint32_t wanted = row / bf16_tile_side,
                        row_tile = wanted < row_tiles ? wanted : row_tiles - 1;
    return data + (std::size_t{row_tile} * column_tiles + step) * bf16_tile_bytes +
           row % bf16_tile_side * bf16_row_bytes;
  }
};

}  // namespace troupe::gpu::cuda
