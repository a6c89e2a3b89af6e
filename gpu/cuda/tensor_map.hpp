// Descriptors for the tensor copy engine: which box of a matrix one copy moves, under the 128-byte swizzle.
//
// A box is 64 values wide (128 bytes), so that a tile of any height is a run of 128-byte rows in shared memory and
// the tensor cores read it without bank conflicts. Immutable; any thread.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "base/result.hpp"
#include "gpu/cuda/bf16_tiles.hpp"

namespace troupe::gpu::cuda {

inline constexpr std::uint32_t box_columns = 64;

enum class half_type : std::uint8_t { bf16, f16 };

// [rows][columns], row-major and dense. REQUIRES: columns % 8 == 0, box_rows <= 256.
result<CUtensorMap> make_matrix_map(const void* data, half_type type, std::uint64_t rows,
                                    std::uint64_t columns, std::uint32_t box_rows);
// Of bytes; boxes 128 columns wide. REQUIRES: columns % 16 == 0.
result<CUtensorMap> make_byte_map(const void* data, std::uint64_t rows, std::uint64_t columns,
                                  std::uint32_t box_rows);
// [depth][rows][columns], depth_bytes from one plane to the next: the KV arena, a plane a block.
result<CUtensorMap> make_arena_map(const void* data, half_type type, std::uint64_t depth,
                                   std::uint64_t depth_bytes, std::uint64_t rows,
                                   std::uint64_t columns, std::uint32_t box_rows);

// Of tiles: rows of a tile, row tiles, column tiles. A box is as they are in memory, `box_tiles` of a column.
result<CUtensorMap> make_tile_map(const bf16_tiles& tiles, std::uint32_t box_tiles);

}  // namespace troupe::gpu::cuda
