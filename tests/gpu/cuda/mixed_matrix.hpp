// A packed matrix of several formats for the tests of products.
#pragma once

#include <array>
#include <random>
#include <span>
#include <vector>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/packed.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "tests/gpu/cuda/random_blocks.hpp"

namespace troupe::gpu::cuda {

// A matrix of three tensors, the same unpacked, and what the tensors' own reader makes of them.
struct mixed_matrix {
  using heights = std::array<std::uint32_t, 3>;
  static constexpr heights usual{640, 128, 192};
  static constexpr std::uint32_t features = 960;  // of these
  device_array<std::byte> tiles;
  device_array<__nv_bfloat16> plain;  // bf16_tiles.hpp
  std::vector<float> values;
  weight_matrix packed, unpacked;

  static std::uint64_t bytes_of(const std::array<model::tensor_type, 3>& mix, const heights& rows,
                                std::uint32_t columns) {
    std::uint64_t bytes = 0;
    for (int i = 0; i < 3; ++i)
      bytes += std::uint64_t{rows[i] / 64} * (columns / 64) *
               packed_tile_bytes(packed_format_of(mix[i]));
    return bytes;
  }
  mixed_matrix(const std::array<model::tensor_type, 3>& mix, std::uint32_t columns,
               std::mt19937& random, cudaStream_t stream, const heights& rows = usual)
      : tiles(bytes_of(mix, rows, columns)),
        plain(std::size_t{rows[0] + rows[1] + rows[2]} * columns),
        values(std::size_t{rows[0] + rows[1] + rows[2]} * columns) {
    packed_matrix m;
    m.data = tiles.data();
    std::uint64_t offset = 0;
    std::uint32_t tile = 0, tile_row = 0;
    for (int i = 0; i < 3; ++i) {
      m.format[i] = packed_format_of(mix[i]);
      m.first_tile[i] = tile;
      m.offset[i] = offset;
      tile += rows[i] / 64;
      offset += std::uint64_t{rows[i] / 64} * (columns / 64) * packed_tile_bytes(m.format[i]);
      const auto& info = model::info(mix[i]);
      const auto data = random_blocks(
          mix[i], std::uint64_t{rows[i]} * columns / info.block_size * info.block_bytes, random);
      const model::tensor t{"t", mix[i], rows[i], columns, data};
      const std::span<float> of_tensor = std::span(values).subspan(std::size_t{tile_row} * columns);
      for (std::uint32_t r = 0; r < rows[i]; ++r)
        model::dequantize_row(t, r, of_tensor.subspan(std::size_t{r} * columns, columns));
      tile_row += rows[i];
      const device_array<std::byte> raw(data);
      require(pack(mix[i], raw.data(), rows[i], columns, tiles.data() + m.offset[i], {}, stream));
      EXPECT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
    }
    require(unpack(m, tile_row, columns, plain.data(), false, stream));
    packed = unpacked = {plain.data(), tile_row, columns};
    packed.packed = m;
  }
};

}  // namespace troupe::gpu::cuda
