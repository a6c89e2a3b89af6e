#include "gpu/cuda/packed.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "gpu/cuda/gemm.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "tests/gpu/cuda/mixed_matrix.hpp"
#include "tests/gpu/cuda/random_blocks.hpp"
#include "tests/gpu/cuda/tiled.hpp"

namespace troupe::gpu::cuda {
namespace {

using model::tensor_type;

class packed_test : public gpu_test {};

constexpr tensor_type types[] = {tensor_type::q4_0, tensor_type::q4_1, tensor_type::q4_k,
                                 tensor_type::q5_0, tensor_type::q8_0, tensor_type::q6_k};

TEST_F(packed_test, unpacked_values_equal_the_reference_reader) {
  const std::uint32_t rows = 96, columns = 512;
  for (const tensor_type type : types) {
    const auto& info = model::info(type);
    for (const bool interleaved : {false, true}) {
      const auto data =
          random_blocks(type, rows * columns / info.block_size * info.block_bytes, random);
      const model::tensor t{"t", type, rows, columns, data};
      const device_array<std::byte> raw(data);
      const std::uint32_t tall = interleaved ? 2 * rows : rows;
      packed_matrix m;
      m.format[0] = packed_format_of(type);
      m.first_tile[1] = m.first_tile[2] = ~0u;
      const device_array<std::byte> tiles((tall + 63) / 64 * (columns / 64) *
                                          packed_tile_bytes(m.format[0]));
      m.data = tiles.data();
      require(pack(type, raw.data(), rows, columns, tiles.data(),
                   {interleaved ? 8u : 0u, interleaved}, stream));
      device_array<__nv_bfloat16> out(count_bf16_values(tall, columns));
      out.poison();
      require(unpack(m, tall, columns, out.data(), false, stream));
      const auto got = from_tiles(out.fetch(), tall, columns);
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

struct f8_matrix {
  device_array<std::byte> tiles;
  device_array<float> scales;
  packed_matrix packed;
  f8_matrix(const std::vector<__nv_bfloat16>& values, std::uint64_t rows, std::uint64_t columns,
            row_placement placement, std::uint64_t tall, cudaStream_t stream)
      : tiles((tall + 63) / 64 * (columns / 64) * packed_tile_bytes(packed_format::f8)),
        scales((tall + 63) / 64 * 64) {
    const device_array<__nv_bfloat16> plain(values);
    packed.data = tiles.data();
    packed.row_scales = scales.data();
    packed.format[0] = packed_format::f8;
    packed.first_tile[1] = packed.first_tile[2] = ~0u;
    require(quantize_to_f8(tensor_type::bf16, reinterpret_cast<const std::byte*>(plain.data()),
                           rows, columns, tiles.data(), scales.data(), placement, stream));
    EXPECT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
  }
};

TEST_F(packed_test, f8_values_are_within_half_of_the_last_bit) {
  const std::uint32_t rows = 96, columns = 512;
  for (const bool interleaved : {false, true}) {
    auto values = random_values<__nv_bfloat16>(rows * columns, random, 0.03f);
    std::fill_n(values.begin(), columns, from_float<__nv_bfloat16>(0));  // a row of zeros
    const std::uint32_t tall = interleaved ? 2 * rows : rows;
    const f8_matrix m(values, rows, columns, {interleaved ? 8u : 0u, interleaved}, tall, stream);
    const device_array<__nv_bfloat16> out(count_bf16_values(tall, columns));
    require(unpack(m.packed, tall, columns, out.data(), false, stream));
    const auto got = from_tiles(out.fetch(), tall, columns);
    const auto scales = m.scales.fetch();
    for (std::uint64_t r = 0; r < rows; ++r) {
      const std::uint64_t target = interleaved ? r / 8 * 16 + r % 8 + 8 : r;
      float largest = 0;
      for (std::uint64_t c = 0; c < columns; ++c)
        largest = std::max(largest, std::abs(to_float(values[r * columns + c])));
      const float scale = scales[target];
      EXPECT_FLOAT_EQ(scale, largest > 0 ? largest / 448 : 1);
      for (std::uint64_t c = 0; c < columns; ++c) {
        const float wanted = to_float(values[r * columns + c]);
        ASSERT_NEAR(to_float(got[target * columns + c]) * scale, wanted,
                    std::abs(wanted) / 15.9f + scale * 0x1p-9f)
            << r << "," << c;
      }
    }
  }
}

// Few rows: bf16 activations over E4M3 weights, exact but for the sums. Many: activations in E4M3 as well.
TEST_F(packed_test, f8_products_equal_those_of_the_values_they_hold) {
  require(prepare_gemm());
  for (const std::uint32_t columns : {576u, 1024u}) {
    const std::uint32_t features = 960, capacity = 1152;
    const auto values =
        random_values<__nv_bfloat16>(std::size_t{features} * columns, random, 0.03f);
    const f8_matrix m(values, features, columns, {}, features, stream);
    const device_array<__nv_bfloat16> plain(count_bf16_values(features, columns));
    require(unpack(m.packed, features, columns, plain.data(), false, stream));
    const weight_matrix w{plain.data(), features, columns, m.packed};
    ASSERT_TRUE(is_fp8(w));
    const auto held = from_tiles(plain.fetch(), features, columns);
    const auto scales = m.scales.fetch();
    const auto x_values = random_values<__nv_bfloat16>(std::size_t{capacity} * columns, random);
    const device_array<__nv_bfloat16> x(x_values);
    const auto input = make_activation_matrix(x.data(), capacity, columns).value();
    const auto wanted = [&](std::uint32_t row, std::uint32_t f) {
      double sum = 0;
      for (std::uint32_t k = 0; k < columns; ++k) {
        sum += static_cast<double>(to_float(x_values[std::size_t{row} * columns + k])) *
               to_float(held[std::size_t{f} * columns + k]) * scales[f];
      }
      return sum;
    };
    for (const std::uint32_t n : {1u, 3u, 12u, 30u, 64u, 250u, 300u}) {
      device_array<float> a(std::size_t{n} * features), b(std::size_t{n} * features);
      a.poison();
      require(multiply_narrow(input, n, w, {a.data(), nullptr}, {1, 1, false, false}, stream));
      require(multiply_narrow(input, n, w, {b.data(), nullptr}, {1, 1, false, true}, stream));
      const auto got = a.fetch(), unpacked = b.fetch();
      EXPECT_EQ(0, std::memcmp(got.data(), unpacked.data(), got.size() * sizeof(float))) << n;
      relative_error error;
      for (int i = 0; i < 600; ++i) {
        const std::uint32_t row = random() % n, f = random() % features;
        error.add(got[std::size_t{row} * features + f], wanted(row, f));
      }
      EXPECT_LT(error.value(), 3e-5) << n << " rows of " << columns;
    }
    const device_array<std::uint8_t> bytes(std::size_t{capacity} * columns);
    const device_array<float> row_scales(capacity);
    const auto quantized =
        make_quantized_rows(bytes.data(), row_scales.data(), capacity, columns).value();
    for (const bool gated : {false, true}) {
      // Tiles of 128 rows: one, two, some alone, some in pairs, and a pair of which one has no rows.
      for (const std::uint32_t n : {65u, 256u, 300u, 512u, 1100u}) {
        const std::uint32_t width = gated ? features / 2 : features;
        device_array<__nv_bfloat16> y(std::size_t{capacity} * width);
        y.poison();
        const auto output = make_activation_matrix(y.data(), capacity, width).value();
        require(quantize_rows(input, n, quantized, stream));
        require(multiply_fp8(quantized, n, w, {output, gated}, stream));
        const auto got = y.fetch();
        for (std::size_t i = 0; i < std::size_t{n} * width; ++i)
          ASSERT_FALSE(std::isnan(to_float(got[i]))) << i;
        relative_error error;
        for (int i = 0; i < 600; ++i) {
          const std::uint32_t row = random() % n, f = random() % width;
          double value = wanted(row, f);
          if (gated) {
            const double gate = wanted(row, f / 8 * 16 + f % 8);
            value = gate / (1 + std::exp(-gate)) * wanted(row, f / 8 * 16 + f % 8 + 8);
          }
          error.add(to_float(got[std::size_t{row} * width + f]), value);
        }
        // E4M3 rounds an activation by up to 1/16 of it, uniformly: 1/16 / sqrt(3) / sqrt(2) or so of the sum, and twice that
        // where two sums are multiplied.
        EXPECT_LT(error.value(), gated ? 0.06 : 0.035) << n << " rows of " << columns;
        EXPECT_GT(error.value(), 0.005) << "activations were not quantized";
        for (const std::uint32_t splits : {1u, 2u, 4u}) {
          if (gated || n > 300) continue;
          device_array<float> partial(std::size_t{splits} * n * features);
          partial.poison();
          require(multiply_fp8(quantized, n, w, {output, false, partial.data(), splits}, stream));
          const auto parts = partial.fetch();
          relative_error difference;
          for (std::size_t i = 0; i < std::size_t{n} * features; ++i) {
            double sum = 0;
            for (std::uint32_t s = 0; s < splits; ++s)
              sum += parts[std::size_t{s} * n * features + i];
            difference.add(sum, to_float(got[i]));
          }
          EXPECT_LT(difference.value(), 5e-3) << splits << " splits of " << n << " rows";
        }
      }
    }
  }
}

void expect_the_bits_of_unpacked_products(const mixed_matrix& w, const activation_matrix& input,
                                          std::uint32_t splits, cudaStream_t stream) {
  const std::uint32_t features = w.packed.rows;
  for (const std::uint32_t n : {1u, 12u, 30u, 64u, 100u, 250u, 300u, 600u}) {
    device_array<float> a(std::size_t{splits} * n * features),
        b(std::size_t{splits} * n * features);
    require(
        multiply_narrow(input, n, w.packed, {b.data(), nullptr}, {splits, 2, false, true}, stream));
    const auto wanted = b.fetch();
    for (const std::uint32_t ring : {tuning_of_packed().ring_bytes, 36u * 1024, 72u * 1024}) {
      if (n > 16 && ring != packed_tuning{}.ring_bytes) continue;
      tuning_of_packed().ring_bytes = ring;
      a.poison();
      require(multiply_narrow(input, n, w.packed, {a.data(), nullptr}, {splits, 1, false, false},
                              stream));
      const auto got = a.fetch();
      EXPECT_EQ(0, std::memcmp(got.data(), wanted.data(), got.size() * sizeof(float)))
          << n << " rows of " << features << ", " << splits << " splits, ring of " << ring;
    }
    tuning_of_packed() = {};
  }
}

TEST_F(packed_test, products_have_the_bits_of_the_unpacked_ones) {
  require(prepare_gemm());
  const std::uint32_t columns = 1024;
  const device_array<__nv_bfloat16> x(
      random_values<__nv_bfloat16>(std::size_t{640} * columns, random));
  const auto input = make_activation_matrix(x.data(), 640, columns).value();
  for (const auto& mix : {std::array{tensor_type::q4_k, tensor_type::q4_k, tensor_type::q6_k},
                          std::array{tensor_type::q8_0, tensor_type::q4_1, tensor_type::q4_0},
                          std::array{tensor_type::q4_k, tensor_type::q4_1, tensor_type::q4_0},
                          std::array{tensor_type::q5_0, tensor_type::q6_k, tensor_type::q4_k}}) {
    // One tile of 64 features a block, two that share activations, and four.
    for (const auto& rows : {mixed_matrix::usual, {640, 128, 256}, {512, 256, 256}}) {
      const mixed_matrix w(mix, columns, random, stream, rows);
      for (const std::uint32_t splits : {1u, 3u})
        expect_the_bits_of_unpacked_products(w, input, splits, stream);
    }
  }
}

// Over many rows packed weights are multiplied once they are unpacked.
TEST_F(packed_test, unpacked_weights_are_multiplied_over_many_rows) {
  require(prepare_gemm());
  const std::uint32_t columns = 1024, features = mixed_matrix::features, capacity = 384, rows = 300;
  const mixed_matrix w({tensor_type::q4_k, tensor_type::q4_1, tensor_type::q6_k}, columns, random,
                       stream);
  const auto held = from_tiles(w.plain.fetch(), features, columns);
  const auto x_values = random_values<__nv_bfloat16>(std::size_t{capacity} * columns, random);
  const device_array<__nv_bfloat16> x(x_values);
  const auto input = make_activation_matrix(x.data(), capacity, columns).value();
  device_array<__nv_bfloat16> y(std::size_t{capacity} * features);
  y.poison();
  const auto output = make_activation_matrix(y.data(), capacity, features).value();
  require(multiply_wide(input, rows, w.packed, {&output}, {{}, false}, stream));
  const auto got = y.fetch();
  relative_error error;
  for (int i = 0; i < 2000; ++i) {
    const std::uint32_t row = random() % rows, f = random() % features;
    double sum = 0;
    for (std::uint32_t k = 0; k < columns; ++k) {
      sum += static_cast<double>(to_float(x_values[std::size_t{row} * columns + k])) *
             to_float(held[std::size_t{f} * columns + k]);
    }
    error.add(to_float(got[std::size_t{row} * features + f]), sum);
  }
  EXPECT_LT(error.value(), 3e-3);
}

}  // namespace
}  // namespace troupe::gpu::cuda
