#include <cmath>

#include "gpu/host/rope_angles.hpp"
#include "tests/gpu/host_fixture.hpp"

namespace troupe::gpu::host {
namespace {

using testing::runnable_isas;

std::vector<float> random_values(std::size_t n, float scale, std::uint64_t seed) {
  testing::test_random random{seed};
  std::vector<float> x(n);
  for (auto& v : x) v = scale * random.uniform();
  return x;
}

TEST(rows, silu_agrees_with_double_precision_and_has_the_same_bits) {
  std::vector<float> gate, up;
  for (float x = -120; x < 120; x += 0.37f) {
    gate.push_back(x);
    up.push_back(1 + x / 100);
  }
  gate.resize(gate.size() / 16 * 16);
  const auto rows = static_cast<std::uint32_t>(gate.size() / 16);
  std::vector<float> expected(gate.size());
  kernels_portable().silu_multiply(gate.data(), up.data(), rows, expected.data(), 16);
  for (std::size_t k = 0; k < gate.size(); ++k) {
    const double exact = gate[k] / (1 + std::exp(-static_cast<double>(gate[k]))) * up[k];
    ASSERT_NEAR(expected[k], exact, 2e-6 * std::fabs(exact) + 1e-30) << gate[k];
  }
  for (const std::string& isa : runnable_isas()) {
    std::vector<float> y(gate.size());
    (*choose_kernels(isa))->silu_multiply(gate.data(), up.data(), rows, y.data(), 16);
    ASSERT_TRUE(testing::same_bits(y, expected)) << isa;
  }
}

TEST(rows, norm_agrees_with_double_precision_and_has_the_same_bits) {
  for (const std::size_t n : {64u, 96u, 576u, 1000u}) {
    const auto x = random_values(n, 5, n), w = random_values(n, 2, n + 1);
    std::vector<float> expected(n);
    kernels_portable().rms_norm(x.data(), w.data(), 1e-5f, static_cast<std::uint32_t>(n),
                                expected.data());
    double squares = 0;
    for (const float v : x) squares += static_cast<double>(v) * v;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    for (std::size_t k = 0; k < n; ++k) ASSERT_NEAR(expected[k], x[k] * factor * w[k], 3e-6);
    for (const std::string& isa : runnable_isas()) {
      std::vector<float> y(n);
      (*choose_kernels(isa))
          ->rms_norm(x.data(), w.data(), 1e-5f, static_cast<std::uint32_t>(n), y.data());
      ASSERT_TRUE(testing::same_bits(y, expected)) << isa;
    }
  }
}

TEST(rows, quantization_keeps_sums_and_scale_on_every_instruction_set) {
  const auto x = random_values(544, 7, 3);
  struct one_row {
    std::vector<std::int8_t> quantized = std::vector<std::int8_t>(17 * 64);
    std::vector<group_sums> sums = std::vector<group_sums>(17);
    float scale = 0;
  };
  const auto quantize = [&](const kernel_table& kernels) {
    one_row r;
    std::vector<float> scratch(544);
    activations a;
    a.quantized = r.quantized.data();
    a.sums = r.sums.data();
    a.scales = &r.scale;
    a.groups = 17;
    a.rows = 1;
    kernels.quantize_row({x.data(), nullptr, 0, 544, &a, 0, scratch.data()});
    return r;
  };
  const one_row expected = quantize(kernels_portable());
  for (std::size_t g = 0; g < 17; ++g) {
    double sum = 0;
    for (std::size_t k = 0; k < 32; ++k) {
      std::int16_t q = 0;
      std::memcpy(&q, expected.quantized.data() + g * 64 + 2 * k, 2);
      ASSERT_NEAR(q * expected.scale, x[g * 32 + k], 0.50001 * expected.scale);
      sum += q;
    }
    ASSERT_EQ(expected.sums[g].whole, sum);
  }
  for (const std::string& isa : runnable_isas()) {
    const one_row r = quantize(**choose_kernels(isa));
    EXPECT_EQ(r.scale, expected.scale) << isa;
    for (std::size_t g = 0; g < 17; ++g) {
      EXPECT_EQ(r.sums[g].half[0], expected.sums[g].half[0]) << isa;
      EXPECT_EQ(r.sums[g].half[1], expected.sums[g].half[1]) << isa;
      EXPECT_EQ(r.sums[g].whole_f, expected.sums[g].whole_f) << isa;
    }
  }
}

TEST(rows, sines_and_cosines_agree_with_the_c_library) {
  for (double x = 0; x < 1e6; x = x * 1.003 + 0.01) {
    double s = 0, c = 0;
    sin_cos(x, s, c);
    ASSERT_NEAR(s, std::sin(x), 1e-10) << x;
    ASSERT_NEAR(c, std::cos(x), 1e-10) << x;
  }
}

TEST(rows, rotation_turns_both_kinds_of_pairs) {
  for (const bool interleaved : {true, false}) {
    model::rope_config rope;
    rope.dimensions = 32;
    rope.interleaved = interleaved;
    const auto f = model::frequencies(rope);
    std::vector<float> cosine(32), sine(32);
    rope_lanes(rope, f, 777, cosine, sine);
    const auto x = random_values(48, 1, 9);  // the last 16 are not rotated
    std::vector<float> expected;
    for (const std::string& isa : runnable_isas()) {
      std::vector<float> y = x;
      (*choose_kernels(isa))->rope({y.data(), cosine.data(), sine.data(), 32, interleaved});
      if (expected.empty()) expected = y;
      ASSERT_TRUE(testing::same_bits(y, expected)) << isa;
    }
    for (std::size_t k = 0; k < 16; ++k) {
      const std::size_t a = interleaved ? 2 * k : k, b = interleaved ? 2 * k + 1 : k + 16;
      const double angle = 777.0 * f.inv_freq[k];
      ASSERT_NEAR(expected[a], x[a] * std::cos(angle) - x[b] * std::sin(angle), 1e-6);
      ASSERT_NEAR(expected[b], x[b] * std::cos(angle) + x[a] * std::sin(angle), 1e-6);
    }
    for (std::size_t k = 32; k < 48; ++k) ASSERT_EQ(expected[k], x[k]);
  }
}

TEST(rows, halves_round_alike_everywhere) {
  std::vector<float> x = {0.0f,   -0.0f,   1.0f,    65504.0f, 65519.0f, 1e9f,
                          -1e9f,  6e-8f,   2.9e-8f, 3.0e-8f,  5.9e-5f,  6.1e-5f,
                          1e-30f, 2049.0f, 2051.0f, -2050.5f};
  for (const float v : random_values(1008, 1, 4))
    x.push_back(v * std::exp2(20 * std::fabs(v) - 12));
  std::vector<std::uint16_t> expected(x.size());
  kernels_portable().store_f16(x.data(), expected.data(), static_cast<std::uint32_t>(x.size()));
  EXPECT_EQ(expected[5], 0x7bff);  // clamped
  EXPECT_EQ(expected[6], 0xfbff);
  for (const std::string& isa : runnable_isas()) {
    std::vector<std::uint16_t> y(x.size());
    (*choose_kernels(isa))->store_f16(x.data(), y.data(), static_cast<std::uint32_t>(x.size()));
    ASSERT_EQ(y, expected) << isa;
  }
}

TEST(cpu, unknown_and_missing_instruction_sets_are_refused) {
  ASSERT_FALSE(choose_kernels("sse9").has_value());
  EXPECT_EQ(choose_kernels("sse9").error().code, ec::invalid_argument);
  EXPECT_TRUE(choose_kernels("auto").has_value());
  EXPECT_TRUE(choose_kernels("portable").has_value());
  EXPECT_GE(available_cores(), 1u);
}

}  // namespace
}  // namespace troupe::gpu::host
