#include <cmath>
#include <cstring>

#include "gpu/host/aligned_memory.hpp"
#include "gpu/host/cpu.hpp"
#include "gpu/host/packed_matrix.hpp"
#include "tests/gpu/host_fixture.hpp"

namespace troupe::gpu::host {
namespace {

using model::tensor_type;
using testing::runnable_isas;

constexpr tensor_type all_types[] = {tensor_type::f32,  tensor_type::f16,  tensor_type::bf16,
                                     tensor_type::q4_0, tensor_type::q4_1, tensor_type::q5_0,
                                     tensor_type::q5_1, tensor_type::q8_0, tensor_type::q4_k,
                                     tensor_type::q5_k, tensor_type::q6_k};

struct weights {
  weights(tensor_type type, std::uint64_t rows, std::uint64_t columns) {
    testing::test_random random{rows * 1000 + columns};
    bytes = testing::random_weights(type, rows, columns, 0.5f, random);
    tensor = {"w", type, rows, columns, bytes};
    auto planned = plan(tensor);
    EXPECT_TRUE(planned.has_value());
    packed = *planned;
    auto made = aligned_memory::make(packed.bytes());
    EXPECT_TRUE(made.has_value());
    memory = std::move(*made);
    auto* at = reinterpret_cast<std::uint8_t*>(memory.data());
    pack_tiles(tensor, packed, 0, packed.tiles, at);
    packed.data = at;
  }
  std::vector<std::byte> bytes;
  model::tensor tensor;
  packed_matrix packed;
  aligned_memory memory;
};

// Activations of some rows, quantized by the kernels under test.
struct input {
  input(const kernel_table& kernels, const std::vector<std::vector<float>>& rows) {
    const auto n = static_cast<std::uint32_t>(rows.size()),
               columns = static_cast<std::uint32_t>(rows[0].size());
    a.groups = (columns + 31) / 32;
    a.rows = n;
    quantized.resize(std::size_t{n} * a.groups * 64);
    sums.resize(std::size_t{n} * a.groups);
    scales.resize(n);
    values.resize(std::size_t{n} * a.groups * 32);
    a.quantized = quantized.data();
    a.sums = sums.data();
    a.scales = scales.data();
    a.values = values.data();
    for (std::uint32_t r = 0; r < n; ++r)
      kernels.quantize_row({rows[r].data(), nullptr, 0, columns, &a, r, nullptr});
  }
  std::vector<std::int8_t> quantized;
  std::vector<group_sums> sums;
  std::vector<float> scales, values;
  activations a;
};

std::vector<float> multiply(const kernel_table& kernels, const packed_matrix& m,
                            const std::vector<std::vector<float>>& x) {
  const input in(kernels, x);
  std::vector<float> out(x.size() * m.tiles * 16);
  for (std::uint32_t t = 0; t < m.tiles; ++t) {
    kernels.matmul[static_cast<std::size_t>(m.format)](
        {&m, t, &in.a, 0, in.a.rows, out.data() + 16 * t, std::size_t{m.tiles} * 16, false});
  }
  return out;
}

std::vector<std::vector<float>> random_rows(std::size_t rows, std::size_t columns) {
  testing::test_random random{rows + columns};
  std::vector<std::vector<float>> x(rows, std::vector<float>(columns));
  for (auto& r : x)
    for (auto& v : r) v = 3 * random.uniform();
  if (rows > 1) std::fill(x[1].begin(), x[1].end(), 0.0f);  // nothing to scale by
  return x;
}

class matmul : public ::testing::TestWithParam<tensor_type> {};

TEST_P(matmul, unpacks_what_was_packed) {
  const weights w(GetParam(), 37, 512);
  std::vector<float> ours(512), reference(512);
  for (std::uint32_t r = 0; r < 37; ++r) {
    unpack_row(w.packed, r, ours);
    model::dequantize_row(w.tensor, r, reference);
    for (std::size_t k = 0; k < 512; ++k)
      ASSERT_EQ(ours[k], reference[k]) << "row " << r << " column " << k;
  }
}

// E4M3's values times a scale, to bf16's precision.
TEST(packed_matrix, holds_e4m3_in_bf16) {
  const std::uint32_t rows = 37, columns = 96;
  testing::test_random random{5};
  const auto bytes = testing::random_weights(tensor_type::f8_e4m3, rows, columns, 1, random);
  std::vector<std::byte> scales(rows * sizeof(float));
  for (std::uint32_t r = 0; r < rows; ++r) {
    const float scale = 0.01f * static_cast<float>(r + 1);
    std::memcpy(scales.data() + r * sizeof scale, &scale, sizeof scale);
  }
  model::tensor t{"w", tensor_type::f8_e4m3, rows, columns, bytes};
  t.scales = {tensor_type::f32, rows, scales};
  packed_matrix packed = plan(t).value();
  const auto memory = aligned_memory::make(packed.bytes()).value();
  auto* at = reinterpret_cast<std::uint8_t*>(memory.data());
  pack_tiles(t, packed, 0, packed.tiles, at);
  packed.data = at;
  std::vector<float> ours(columns), reference(columns);
  for (std::uint32_t r = 0; r < rows; ++r) {
    unpack_row(packed, r, ours);
    model::dequantize_row(t, r, reference);
    for (std::uint32_t k = 0; k < columns; ++k)
      ASSERT_NEAR(ours[k], reference[k], std::abs(reference[k]) * 0x1p-8f) << r << ", " << k;
  }
}

TEST_P(matmul, agrees_with_double_precision) {
  for (const std::uint64_t columns : {256u, 768u}) {
    const weights w(GetParam(), 40, columns);
    const auto x = random_rows(11, columns);
    const auto y = multiply(**choose_kernels("auto"), w.packed, x);
    std::vector<float> row(columns);
    for (std::uint32_t o = 0; o < 40; ++o) {
      model::dequantize_row(w.tensor, o, row);
      for (std::size_t r = 0; r < x.size(); ++r) {
        double exact = 0, magnitude = 0;
        for (std::size_t k = 0; k < columns; ++k) {
          exact += static_cast<double>(row[k]) * x[r][k];
          magnitude += std::fabs(static_cast<double>(row[k]) * 3);
        }
        // Half a step of the activations, 3 / 32639 / 2, in random directions, and float rounding.
        ASSERT_NEAR(y[r * w.packed.tiles * 16 + o], exact, magnitude * 6e-6)
            << "output " << o << " row " << r;
      }
    }
  }
}

TEST_P(matmul, same_bits_on_every_instruction_set_and_for_every_number_of_rows) {
  const weights w(GetParam(), 48, 512);
  const auto all = random_rows(19, 512);
  const auto expected = multiply(kernels_portable(), w.packed, all);
  for (const std::string& isa : runnable_isas()) {
    SCOPED_TRACE(isa);
    const kernel_table& kernels = **choose_kernels(isa);
    for (const std::size_t rows : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 19u}) {
      const std::vector<std::vector<float>> x(all.begin(),
                                              all.begin() + static_cast<std::ptrdiff_t>(rows));
      const auto y = multiply(kernels, w.packed, x);
      ASSERT_TRUE(testing::same_bits(y, std::span(expected).first(y.size()))) << rows << " rows";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(types, matmul, ::testing::ValuesIn(all_types),
                         [](const auto& p) { return std::string(model::info(p.param).name); });

TEST(matmul_extremes, integers_do_not_overflow_or_saturate) {
  // The largest weights and activations that the formats hold, in the directions that add up.
  for (const tensor_type type : {tensor_type::q8_0, tensor_type::q5_1, tensor_type::q4_1}) {
    weights w(type, 16, 256);
    const auto& about = model::info(type);
    for (std::size_t b = 0; b < w.bytes.size(); b += about.block_bytes) {
      const std::byte fill = type == tensor_type::q8_0 ? std::byte{0x80} : std::byte{0xff};
      std::fill_n(w.bytes.begin() +
                      static_cast<std::ptrdiff_t>(b + 2 + (type == tensor_type::q8_0 ? 0 : 2)),
                  about.block_bytes - (type == tensor_type::q8_0 ? 2 : 4), fill);
    }
    pack_tiles(w.tensor, w.packed, 0, w.packed.tiles,
               reinterpret_cast<std::uint8_t*>(w.memory.data()));
    std::vector<std::vector<float>> x = {std::vector<float>(256, 1.0f),
                                         std::vector<float>(256, -1.0f)};
    std::vector<float> row(256);
    model::dequantize_row(w.tensor, 0, row);
    double exact = 0;
    for (const float v : row) exact += v;
    for (const std::string& isa : runnable_isas()) {
      const auto y = multiply(**choose_kernels(isa), w.packed, x);
      EXPECT_NEAR(y[0], exact, std::fabs(exact) * 1e-6) << isa;
      EXPECT_NEAR(y[16], -exact, std::fabs(exact) * 1e-6) << isa;
    }
  }
}

TEST(matmul_plan, refuses_shapes_that_lie) {
  std::vector<std::byte> bytes(20);
  const model::tensor t{"short", tensor_type::q4_1, 2, 32, bytes};
  const auto p = plan(t);
  ASSERT_FALSE(p.has_value());
  EXPECT_EQ(p.error().code, ec::corrupt_file);
}

}  // namespace
}  // namespace troupe::gpu::host
