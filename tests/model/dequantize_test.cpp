// Every type against the `gguf` Python package, bit for bit (dequantize_reference.bin, see the
// script beside it).
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <iterator>

#include "model/byte_cursor.hpp"
#include "model/tensor.hpp"

namespace troupe::testing {
namespace {

TEST(dequantize, equals_the_python_package_bit_for_bit) {
  std::ifstream in(TROUPE_SOURCE_DIR "/tests/model/dequantize_reference.bin", std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(in), {}};
  model::byte_cursor cursor(std::as_bytes(std::span(content)), "dequantize_reference.bin");
  std::size_t types = 0, not_numbers = 0;
  while (cursor.remaining() > 0) {
    const auto raw = cursor.read<std::uint32_t>("type").value();
    const auto rows = cursor.read<std::uint32_t>("rows").value();
    const auto columns = cursor.read<std::uint32_t>("columns").value();
    auto* about = model::find_tensor_type(raw);
    ASSERT_NE(about, nullptr) << raw;
    const auto bytes = std::uint64_t{rows} * columns / about->block_size * about->block_bytes;
    const model::tensor t{"t", static_cast<model::tensor_type>(raw), rows, columns,
                          cursor.take(bytes, "blocks").value()};
    std::vector<float> row(columns);
    for (std::uint32_t r = 0; r < rows; ++r) {
      dequantize_row(t, r, row);
      for (std::uint32_t c = 0; c < columns; ++c) {
        const auto wanted = cursor.read<float>("value").value();
        // Which NaN an operation gives is not the type's to say.
        if (std::isnan(wanted)) {
          EXPECT_TRUE(std::isnan(row[c])) << about->name << " row " << r << " column " << c;
          ++not_numbers;
          continue;
        }
        ASSERT_EQ(std::bit_cast<std::uint32_t>(row[c]), std::bit_cast<std::uint32_t>(wanted))
            << about->name << " row " << r << " column " << c << ": " << row[c] << ", not "
            << wanted;
      }
    }
    ++types;
  }
  EXPECT_EQ(types, 11u);
  EXPECT_LT(not_numbers, types * 3 * 512 / 4);  // most values do test something
}

TEST(dequantize, knows_sizes_of_types_that_it_cannot_read) {
  EXPECT_EQ(model::find_tensor_type(10), nullptr);  // Q2_K
  EXPECT_EQ(model::find_tensor_type(4), nullptr);   // removed from ggml
  EXPECT_EQ(model::find_tensor_type(0xffffffffu), nullptr);
  EXPECT_EQ(info(model::tensor_type::q6_k).block_bytes, 210u);
}

}  // namespace
}  // namespace troupe::testing
