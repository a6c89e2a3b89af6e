// Matrices of tests to the tiles that weights lie in (gpu/cuda/bf16_tiles.hpp), and back.
#pragma once

#include <vector>

#include "gpu/cuda/bf16_tiles.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"

namespace troupe::gpu::cuda {

// values: [rows][columns]. What fills up the last tiles of rows is no number: it must not be seen.
inline std::vector<__nv_bfloat16> to_tiles(const std::vector<__nv_bfloat16>& values,
                                           std::uint32_t rows, std::uint32_t columns) {
  const auto nothing = from_float<__nv_bfloat16>(std::numeric_limits<float>::quiet_NaN()),
             zero = from_float<__nv_bfloat16>(0);
  std::vector<__nv_bfloat16> tiles(count_bf16_values(rows, columns), nothing);
  for (std::uint32_t r = 0; r < rows; ++r) {
    for (std::uint32_t c = 0; c < count_bf16_tiles(columns) * bf16_tile_side; ++c) {
      tiles[bf16_place(r, c, columns)] = c < columns ? values[std::size_t{r} * columns + c] : zero;
    }
  }
  return tiles;
}

inline std::vector<__nv_bfloat16> from_tiles(const std::vector<__nv_bfloat16>& tiles,
                                             std::uint32_t rows, std::uint32_t columns) {
  std::vector<__nv_bfloat16> values(std::size_t{rows} * columns);
  for (std::uint32_t r = 0; r < rows; ++r) {
    for (std::uint32_t c = 0; c < columns; ++c)
      values[std::size_t{r} * columns + c] = tiles[bf16_place(r, c, columns)];
  }
  return values;
}

}  // namespace troupe::gpu::cuda
