#include "gpu/cuda/bf16_tiles.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace troupe::gpu::cuda {
namespace {

// These need no GPU.
TEST(bf16_tiles, have_a_place_of_its_own_for_each_value) {
  for (const std::uint32_t rows : {1u, 64u, 70u, 200u}) {
    for (const std::uint32_t columns : {8u, 64u, 72u, 576u}) {
      std::vector<bool> taken(count_bf16_values(rows, columns));
      for (std::uint32_t r = 0; r < rows; ++r) {
        for (std::uint32_t c = 0; c < columns; ++c) {
          const std::size_t at = bf16_place(r, c, columns);
          ASSERT_LT(at, taken.size()) << r << "," << c;
          ASSERT_FALSE(taken[at]) << r << "," << c;
          taken[at] = true;
          ASSERT_EQ(at - c % 8, bf16_place(r, c - c % 8, columns)) << r << "," << c;
        }
      }
    }
  }
}

// From row r of a column tile on, 128 bytes a row.
TEST(bf16_tiles, are_copied_in_rows) {
  const std::uint32_t rows = 200, columns = 584;
  const std::vector<__nv_bfloat16> values(count_bf16_values(rows, columns));
  const bf16_tiles tiles = bf16_tiles::of(values.data(), rows, columns);
  EXPECT_EQ(tiles.row_tiles, 4u);
  EXPECT_EQ(tiles.column_tiles, 10u);
  for (std::uint32_t r = 0; r < rows; ++r) {
    for (std::uint32_t c = 0; c < columns; ++c) {
      const auto* from = tiles.at(r / 8 * 8, c / 64) + r % 8 * bf16_row_bytes;
      const auto* value =
          reinterpret_cast<const std::uint8_t*>(values.data() + bf16_place(r, c, columns));
      // The 128-byte swizzle: 16 bytes change places with those whose number differs in bits of the row's.
      ASSERT_EQ(value - from, ((c % 64 / 8) ^ (r % 8)) * 16 + c % 8 * 2) << r << "," << c;
    }
  }
  EXPECT_EQ(tiles.at(256, 3), tiles.at(192, 3));
  EXPECT_EQ(tiles.at(480, 3), tiles.at(224, 3));
}

TEST(bf16_tiles, may_be_larger_than_4_gib) {
  EXPECT_EQ(bf16_place(128255, 16383, 16384), std::size_t{128256} * 16384 - 64 + 7);
  EXPECT_EQ(count_bf16_values(128256, 16384), std::size_t{128256} * 16384);
}

}  // namespace
}  // namespace troupe::gpu::cuda
