// Products of one row with K-quants: multiply_single, multiply_into_residual.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "tests/gpu/cuda/mixed_matrix.hpp"

namespace troupe::gpu::cuda {
namespace {

using model::tensor_type;

class single_test : public gpu_test {};

// Products of one row with K-quants, against sums in double over the values that the file's blocks hold.
struct reference_product {
  std::vector<__nv_bfloat16> x_values;
  std::vector<double> sums;    // [features]
  std::vector<double> errors;  // [features], what they may be off by
  reference_product(const mixed_matrix& w, std::vector<__nv_bfloat16> x)
      : x_values(std::move(x)), sums(mixed_matrix::features), errors(mixed_matrix::features) {
    const std::size_t columns = x_values.size();
    std::vector<double> steps(columns);  // of the integers that activations become
    for (std::size_t k = 0; k < columns; ++k) {
      double& step = steps[k / 32 * 32];
      step = std::max(step, std::abs(static_cast<double>(to_float(x_values[k]))) / (127 * 256));
    }
    for (std::size_t f = 0; f < sums.size(); ++f) {
      double squares = 0, size = 0;
      for (std::size_t k = 0; k < columns; ++k) {
        const double v = w.values[f * columns + k], product = v * to_float(x_values[k]);
        sums[f] += product;
        size += std::abs(product);
        squares += std::pow(v * steps[k / 32 * 32], 2) / 12;
      }
      // Of independent roundings; then of sums in float.
      errors[f] = 6 * std::sqrt(squares) + 3e-6 * size;
    }
  }
};

// A row of integers as it lies in memory (integer_units.cuh): groups of 256, of sub-blocks b and 4 + b side by side; then of these
// pairs two scales, two sums, and the sums of four times 16 columns.
struct integer_row_in_memory {
  std::vector<std::uint8_t> bytes;
  explicit integer_row_in_memory(std::size_t columns)
      : bytes(columns / 256 * integer_group_bytes) {}
  std::size_t groups() const { return bytes.size() / integer_group_bytes; }
  std::size_t upper_byte(std::size_t column) const {
    const std::size_t block = column / 32 % 8, k = column % 16;
    return column / 256 * 512 + block % 4 * 128 + k % 8 / 2 * 16 + block / 4 * 8 +
           column / 16 % 2 * 4 + k % 2 * 2 + k / 8;
  }
  float* pair(std::size_t column) {
    return reinterpret_cast<float*>(bytes.data() + groups() * 512 + column / 256 * 128 +
                                    column / 32 % 4 * 32);
  }
  double value(std::size_t column) {
    const std::size_t at = upper_byte(column);
    return pair(column)[column / 128 % 2] *
           (256.0 * static_cast<signed char>(bytes[at]) + static_cast<signed char>(bytes[at + 64]));
  }
  explicit integer_row_in_memory(const std::vector<__nv_bfloat16>& values)
      : integer_row_in_memory(values.size()) {
    for (std::size_t first = 0; first < values.size(); first += 32) {
      float largest = 0;
      for (std::size_t k = first; k < first + 32; ++k)
        largest = std::max(largest, std::abs(to_float(values[k])));
      float* of_pair = pair(first);
      const std::size_t half = first / 128 % 2;
      of_pair[half] = largest / (127 * 256);
      for (std::size_t k = first; k < first + 32; ++k) {
        const int v = static_cast<int>(std::lround(to_float(values[k]) / of_pair[half]));
        bytes[upper_byte(k)] = static_cast<std::uint8_t>((v + 128) >> 8);
        bytes[upper_byte(k) + 64] = static_cast<std::uint8_t>(v);
        of_pair[2 + half] += of_pair[half] * static_cast<float>(v);
        of_pair[4 + 2 * half + k / 16 % 2] += of_pair[half] * static_cast<float>(v);
      }
    }
  }
  // That it holds these values, which may be off by so much, rounded to its integers.
  void expect(const std::vector<double>& values, const std::vector<double>& errors) {
    for (std::size_t first = 0; first < values.size(); first += 32) {
      double largest = 0, sums[2] = {};
      for (std::size_t k = first; k < first + 32; ++k)
        largest = std::max(largest, std::abs(values[k]) + errors[k]);
      for (std::size_t k = first; k < first + 32; ++k) {
        ASSERT_NEAR(value(k), values[k], errors[k] + largest * 0x1p-15 + 1e-30) << k;
        sums[k / 16 % 2] += value(k);
      }
      const float* of_pair = pair(first);
      const std::size_t half = first / 128 % 2;
      for (int i = 0; i < 2; ++i)
        ASSERT_NEAR(of_pair[4 + 2 * half + i], sums[i], largest * 1e-5 + 1e-30) << first;
      ASSERT_NEAR(of_pair[2 + half], sums[0] + sums[1], largest * 1e-5 + 1e-30) << first;
    }
  }
};

TEST_F(single_test, single_rows_are_multiplied_in_integers) {
  require(prepare_gemm());
  constexpr std::uint32_t features = mixed_matrix::features;
  for (const std::uint32_t columns : {1024u, 4352u, 8192u}) {
    const mixed_matrix w({tensor_type::q4_k, tensor_type::q6_k, tensor_type::q4_k}, columns, random,
                         stream);
    const reference_product wanted(w, random_values<__nv_bfloat16>(columns, random));
    const device_array<std::uint8_t> x(integer_row_in_memory(wanted.x_values).bytes);
    auto squares_values = random_values<float>(7, random);
    double squares_sum = 0;
    for (float& v : squares_values) squares_sum += v = std::abs(v) * columns;
    const device_array<float> squares(squares_values);
    for (const bool norms : {false, true}) {
      const double factor = norms ? 1 / std::sqrt(squares_sum / columns + 1e-5) : 1;
      single_options options;
      if (norms) options.norm = {squares.data(), 7, 1e-5f};
      for (const std::uint32_t splits : {1u, 2u, 4u}) {
        options.splits = splits;
        std::vector<float> first;
        for (const auto& [ring, stages] : {std::pair{20u, 1u}, {56u, 3u}, {112u, 16u}}) {
          tuning_of_single().ring_shared_bytes = ring * 1024;
          tuning_of_single().stages_ahead = stages;
          tuning_of_single().stages_later = 2 * stages;
          device_array<float> partial(splits * features);
          partial.poison();
          require(multiply_single(x.data(), w.packed, {partial.data()}, options, stream));
          const auto parts = partial.fetch();
          for (std::size_t f = 0; f < features; ++f) {
            double sum = 0;
            for (std::uint32_t s = 0; s < splits; ++s) sum += parts[s * features + f];
            ASSERT_NEAR(sum, wanted.sums[f] * factor, wanted.errors[f] * factor)
                << f << " of " << columns << " columns, " << splits << " splits, ring of " << ring;
          }
          if (first.empty()) first = parts;
          EXPECT_EQ(first, parts) << "the ring changes bits";
        }
      }
      tuning_of_single() = {};
      options.splits = 1;
      weight_matrix gates = w.packed;  // whole groups of outputs
      gates.rows = 512;
      integer_row_in_memory gated(256);
      const device_array<std::uint8_t> out(gated.bytes.size());
      require(multiply_single(x.data(), gates, {nullptr, out.data()}, options, stream));
      gated.bytes = out.fetch();
      std::vector<double> values(256), errors(256);
      for (std::size_t f = 0; f < 256; ++f) {
        const std::size_t at = f / 8 * 16 + f % 8;
        const double gate = wanted.sums[at] * factor, up = wanted.sums[at + 8] * factor;
        values[f] = gate / (1 + std::exp(-gate)) * up;
        errors[f] =
            std::abs(values[f]) * 1e-5 + factor * (1.2 * wanted.errors[at] * std::abs(up) +
                                                   wanted.errors[at + 8] * (std::abs(gate) + 1));
      }
      gated.expect(values, errors);
    }
  }
}

// Integers share a scale: nothing of it may spill to other groups, and what is no number must not become one.
TEST_F(single_test, rows_of_any_magnitude_are_multiplied) {
  require(prepare_gemm());
  constexpr std::uint32_t features = 768, columns = 1024;
  mixed_matrix w({tensor_type::q4_k, tensor_type::q6_k, tensor_type::q4_k}, columns, random,
                 stream);
  w.packed.rows = features;
  const device_array<float> weight(std::vector<float>(features, 1.0f));
  const auto multiply = [&](const std::vector<__nv_bfloat16>& values) {
    const device_array<__nv_bfloat16> x(values);
    const device_array<float> residual(std::vector<float>(features, 0.0f));
    const device_array<float> sums(features / residual_band);
    const device_array<std::uint8_t> normed(features / 256 * integer_group_bytes);
    require(multiply_into_residual({x.data()}, w.packed,
                                   {residual.data(), weight.data(), normed.data(), sums.data()},
                                   132, stream));
    return residual.fetch();
  };
  for (const float magnitude : {0.0f, 1e-36f, 1e-20f, 1e20f, 1e30f}) {
    auto values = random_values<__nv_bfloat16>(columns, random);
    for (std::uint32_t k = 0; k < columns; ++k) {
      const float v = to_float(values[k]) * (k < 512 ? 1.0f : magnitude);
      values[k] = __float2bfloat16(k == 7 ? 1000.0f : v);  // an outlier
    }
    const reference_product wanted(w, values);
    const auto got = multiply(values);
    for (std::size_t f = 0; f < features; ++f)
      ASSERT_NEAR(got[f], wanted.sums[f], wanted.errors[f]) << f << ", " << magnitude;
  }
  for (const float broken :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    auto values = random_values<__nv_bfloat16>(columns, random);
    values[700] = __float2bfloat16(broken);
    for (const float v : multiply(values)) ASSERT_FALSE(std::isfinite(v));
  }
}

TEST_F(single_test, products_add_to_the_residual_and_leave_what_its_norm_needs) {
  require(prepare_gemm());
  constexpr std::uint32_t features = 768, bands = features / residual_band;
  for (const std::uint32_t columns : {512u, 4352u, 28672u}) {
    mixed_matrix w({tensor_type::q4_k, tensor_type::q6_k, tensor_type::q4_k}, columns, random,
                   stream);
    w.packed.rows = features;
    const reference_product wanted(w, random_values<__nv_bfloat16>(columns, random));
    const device_array<__nv_bfloat16> x(wanted.x_values);
    const device_array<std::uint8_t> integers(integer_row_in_memory(wanted.x_values).bytes);
    const auto before = random_values<float>(features, random),
               weights = random_values<float>(features, random);
    // Of 132 multiprocessors some have no sub-block; 13 have different numbers, 3 several turns of them.
    for (const std::uint32_t multiprocessors : {132u, 13u, 3u}) {
      ASSERT_TRUE(can_multiply_into_residual(w.packed, multiprocessors));
      for (const bool in_integers : {false, true}) {
        std::vector<float> first;
        for (const std::uint32_t shared : {150u, 226u, 90u}) {
          tuning_of_single().residual_shared_bytes = shared * 1024;
          tuning_of_single().units_ahead = shared == 90 ? 1 : shared;
          const std::string what =
              std::to_string(columns) + " columns on " + std::to_string(multiprocessors);
          const device_array<float> residual(before), weight(weights);
          device_array<float> sums(bands);
          integer_row_in_memory row(features);
          const device_array<std::uint8_t> normed(row.bytes.size());
          sums.poison();
          const single_input input = in_integers ? single_input{nullptr, integers.data()}
                                                 : single_input{x.data(), nullptr};
          require(multiply_into_residual(
              input, w.packed, {residual.data(), weight.data(), normed.data(), sums.data()},
              multiprocessors, stream));
          const auto got = residual.fetch();
          const auto got_sums = sums.fetch();
          row.bytes = normed.fetch();
          std::vector<double> of_bands(bands), values(features), errors(features);
          for (std::size_t i = 0; i < features; ++i) {
            ASSERT_NEAR(got[i], before[i] + wanted.sums[i], wanted.errors[i] + 1e-6)
                << what << ", " << i;
            values[i] = static_cast<double>(got[i]) * weights[i];
            of_bands[i / residual_band] += static_cast<double>(got[i]) * got[i];
          }
          row.expect(values, errors);
          for (std::size_t i = 0; i < bands; ++i)
            ASSERT_NEAR(got_sums[i], of_bands[i], 1e-5 * of_bands[i]) << what << ", " << i;
          if (first.empty()) first = got;
          EXPECT_EQ(first, got) << what << ": the ring changes bits";
        }
      }
    }
    tuning_of_single() = {};
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda
