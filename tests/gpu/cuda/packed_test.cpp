#include "gpu/cuda/packed.hpp"

#include <cstring>

#include "gpu/cuda/gemm.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "tests/gpu/cuda/random_blocks.hpp"

namespace troupe::gpu::cuda {
namespace {

using model::tensor_type;

class packed_test : public gpu_test {};

constexpr tensor_type types[] = {tensor_type::q4_0, tensor_type::q4_1, tensor_type::q4_k,
                                 tensor_type::q5_0, tensor_type::q8_0, tensor_type::q6_k};

TEST_F(packed_test, unpacked_values_equal_the_reference_reader) {
  const std::uint64_t rows = 96, columns = 512;
  for (const tensor_type type : types) {
    const auto& info = model::info(type);
    for (const bool interleaved : {false, true}) {
      const auto data =
          random_blocks(type, rows * columns / info.block_size * info.block_bytes, random);
      const model::tensor t{"t", type, rows, columns, data};
      const device_array<std::byte> raw(data);
      const std::uint64_t tall = interleaved ? 2 * rows : rows;
      packed_matrix m;
      m.format[0] = packed_format_of(type);
      m.first_tile[1] = m.first_tile[2] = ~0u;
      const device_array<std::byte> tiles((tall + 63) / 64 * (columns / 64) *
                                          packed_tile_bytes(m.format[0]));
      m.data = tiles.data();
      require(pack(type, raw.data(), rows, columns, tiles.data(),
                   {interleaved ? 8u : 0u, interleaved}, stream));
      const device_array<__nv_bfloat16> out(tall * columns);
      require(unpack(m, static_cast<std::uint32_t>(tall), columns, out.data(), false, stream));
      const auto got = out.fetch();
      std::vector<float> row(columns);
      for (std::uint64_t r = 0; r < rows; ++r) {
        model::dequantize_row(t, r, row);
        float largest = 0;
        for (const float v : row) largest = std::max(largest, std::abs(v));
        const std::uint64_t target = interleaved ? r / 8 * 16 + r % 8 + 8 : r;
        for (std::uint64_t c = 0; c < columns; ++c) {
          // bf16's rounding, and the scale's and minimum's in bf16 or f16.
          ASSERT_NEAR(to_float(got[target * columns + c]), row[c],
                      std::abs(row[c]) * 0.004f + largest * 0.008f)
              << info.name << " " << r << "," << c;
        }
      }
    }
  }
}

TEST_F(packed_test, products_have_the_bits_of_the_unpacked_ones) {
  require(prepare_gemm());
  const std::uint32_t rows[3] = {640, 128, 192}, columns = 1024, features = 960;
  for (const auto& mix : {std::array{tensor_type::q4_k, tensor_type::q4_k, tensor_type::q6_k},
                          std::array{tensor_type::q8_0, tensor_type::q4_1, tensor_type::q4_0},
                          std::array{tensor_type::q4_k, tensor_type::q4_1, tensor_type::q4_0}}) {
    packed_matrix m;
    std::uint64_t offset = 0;
    std::uint32_t tile = 0;
    for (int i = 0; i < 3; ++i) {
      m.format[i] = packed_format_of(mix[i]);
      m.first_tile[i] = tile;
      m.offset[i] = offset;
      tile += rows[i] / 64;
      offset += std::uint64_t{rows[i] / 64} * (columns / 64) * packed_tile_bytes(m.format[i]);
    }
    const device_array<std::byte> tiles(offset);
    m.data = tiles.data();
    for (int i = 0; i < 3; ++i) {
      const auto& info = model::info(mix[i]);
      const device_array<std::byte> raw(random_blocks(
          mix[i], std::uint64_t{rows[i]} * columns / info.block_size * info.block_bytes, random));
      require(pack(mix[i], raw.data(), rows[i], columns, tiles.data() + m.offset[i], {}, stream));
      ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
    }
    const device_array<__nv_bfloat16> plain(std::size_t{features} * columns);
    require(unpack(m, features, columns, plain.data(), false, stream));
    auto w = make_weight_matrix(plain.data(), features, columns).value();
    auto packed = w;
    packed.packed = m;
    const device_array<__nv_bfloat16> x(
        random_values<__nv_bfloat16>(std::size_t{384} * columns, random));
    const auto input = make_activation_matrix(x.data(), 384, columns).value();
    for (const std::uint32_t n : {1u, 12u, 30u, 64u, 100u, 250u, 300u}) {
      for (const std::uint32_t splits : {1u, 3u}) {
        device_array<float> a(std::size_t{splits} * n * features),
            b(std::size_t{splits} * n * features);
        require(multiply_narrow(input, n, packed, {b.data(), nullptr}, {splits, 2, false, true},
                                stream));
        const auto wanted = b.fetch();
        for (const packed_ring ring : {packed_ring::any, packed_ring::deep, packed_ring::small}) {
          tuning_of_packed().ring = ring;
          a.poison();
          require(multiply_narrow(input, n, packed, {a.data(), nullptr}, {splits, 1, false, false},
                                  stream));
          const auto got = a.fetch();
          EXPECT_EQ(0, std::memcmp(got.data(), wanted.data(), got.size() * sizeof(float)))
              << n << " rows, " << splits << " splits, ring " << static_cast<int>(ring);
        }
        tuning_of_packed() = {};
      }
    }
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda
