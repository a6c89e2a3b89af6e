#include "gpu/cuda/gemm.hpp"

#include <cstring>

#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "tests/gpu/cuda/tiled.hpp"

namespace troupe::gpu::cuda {
namespace {

struct layer_case {
  std::uint32_t features, depth;
};

class gemm_test : public gpu_test {
 protected:
  void SetUp() override {
    gpu_test::SetUp();
    if (!IsSkipped()) require(prepare_gemm());
  }
  double dot(const std::vector<__nv_bfloat16>& x, std::uint32_t row,
             const std::vector<__nv_bfloat16>& w, std::uint32_t feature,
             std::uint32_t depth) const {
    double sum = 0;
    for (std::uint32_t k = 0; k < depth; ++k) {
      sum += static_cast<double>(to_float(x[std::size_t{row} * depth + k])) *
             to_float(w[std::size_t{feature} * depth + k]);
    }
    return sum;
  }
  // Row of the fused matrix that holds row `f` of gate or up.
  static std::uint32_t gate_row(std::uint32_t f) { return f / 8 * 16 + f % 8; }
  static std::uint32_t up_row(std::uint32_t f) { return gate_row(f) + 8; }
};

// Random weights, and rows of activations for them.
struct random_layer {
  random_layer(layer_case l, std::uint32_t rows, std::mt19937& random)
      : w(random_values<__nv_bfloat16>(std::size_t{l.features} * l.depth, random, 0.05f)),
        w_device(to_tiles(w, l.features, l.depth)),
        weights{w_device.data(), l.features, l.depth},
        x(random_values<__nv_bfloat16>(std::size_t{rows} * l.depth, random)),
        x_device(x),
        input(make_activation_matrix(x_device.data(), rows, l.depth).value()) {}

  const std::vector<__nv_bfloat16> w;
  const device_array<__nv_bfloat16> w_device;
  const weight_matrix weights;
  const std::vector<__nv_bfloat16> x;
  const device_array<__nv_bfloat16> x_device;
  const activation_matrix input;
};

// Some with more than whole tiles of weights, along both sides.
constexpr layer_case layers[] = {{960, 576},   {576, 1536},  {1024, 192}, {1000, 584},
                                 {1536, 4096}, {512, 14336}, {200, 328}};

TEST_F(gemm_test, narrow_equals_double_reference_for_every_width_and_split) {
  std::vector<layer_case> cases(std::begin(layers), std::end(layers));
  cases.push_back({3203, 200});  // like a vocabulary
  for (const layer_case l : cases) {
    const random_layer made(l, 512, random);
    for (const std::uint32_t rows : {1u, 7u, 9u, 31u, 64u, 100u, 200u, 256u, 300u}) {
      for (const std::uint32_t splits : {1u, 3u}) {
        const narrow_options options{splits, rows % 2 + 1, false};
        device_array<float> y_device(std::size_t{splits} * rows * l.features);
        y_device.poison();
        require(multiply_narrow(made.input, rows, made.weights, {y_device.data(), nullptr}, options,
                                stream));
        const auto y = y_device.fetch();
        for (const float v : y) ASSERT_FALSE(std::isnan(v)) << "an output was not written";
        relative_error error;
        for (std::uint32_t i = 0; i < 600; ++i) {
          const std::uint32_t row = random() % rows, feature = random() % l.features;
          double got = 0;
          for (std::uint32_t s = 0; s < splits; ++s)
            got += y[(std::size_t{s} * rows + row) * l.features + feature];
          error.add(got, dot(made.x, row, made.w, feature, l.depth));
        }
        // Tensor cores align products to the largest before they add: long sums lose more.
        EXPECT_LT(error.value(), 3e-5)
            << l.features << " x " << l.depth << ", " << rows << " rows, " << splits << " splits";
      }
    }
  }
}

TEST_F(gemm_test, narrow_rows_do_not_depend_on_their_neighbours) {
  const layer_case l{640, 4096};
  const device_array<__nv_bfloat16> w(
      to_tiles(random_values<__nv_bfloat16>(std::size_t{l.features} * l.depth, random, 0.05f),
               l.features, l.depth));
  const weight_matrix weights{w.data(), l.features, l.depth};
  const auto x = random_values<__nv_bfloat16>(std::size_t{512} * l.depth, random);
  const auto run = [&](std::uint32_t first, std::uint32_t rows) {
    std::vector<__nv_bfloat16> some(std::size_t{512} * l.depth, from_float<__nv_bfloat16>(0));
    std::copy_n(x.begin() + std::ptrdiff_t{first} * l.depth, std::size_t{rows} * l.depth,
                some.begin());
    const device_array<__nv_bfloat16> some_device(some);
    const auto input = make_activation_matrix(some_device.data(), 512, l.depth).value();
    const device_array<float> y(std::size_t{4} * rows * l.features);
    require(multiply_narrow(input, rows, weights, {y.data(), nullptr}, {4, 2, false}, stream));
    return y.fetch();
  };
  const auto all = run(0, 512);
  for (const std::uint32_t rows : {1u, 5u, 16u, 30u, 60u, 128u, 250u}) {
    const std::uint32_t first = random() % (512 - rows);
    const auto some = run(first, rows);
    for (std::uint32_t s = 0; s < 4; ++s) {
      const float* a = some.data() + std::size_t{s} * rows * l.features;
      const float* b = all.data() + (std::size_t{s} * 512 + first) * l.features;
      EXPECT_EQ(0, std::memcmp(a, b, std::size_t{rows} * l.features * sizeof(float)))
          << rows << " rows, split " << s;
    }
  }
}

// Of 28,640 features in 130 to 256 rows multiply_wide makes tiles of 224 on a card of 132 multiprocessors, the last one
// narrower.
TEST_F(gemm_test, gate_and_up_are_fused_in_both_kernels) {
  for (const layer_case l : {layer_case{1536, 576}, {14320, 192}, {14312, 200}, {1000, 584}}) {
    const std::uint32_t intermediate = l.features, depth = l.depth;
    const auto w =
        random_values<__nv_bfloat16>(std::size_t{2} * intermediate * depth, random, 0.05f);
    const device_array<__nv_bfloat16> w_device(to_tiles(w, 2 * intermediate, depth));
    const weight_matrix weights{w_device.data(), 2 * intermediate, depth};
    const auto x = random_values<__nv_bfloat16>(std::size_t{512} * depth, random);
    const device_array<__nv_bfloat16> x_device(x);
    const auto input = make_activation_matrix(x_device.data(), 512, depth).value();
    for (const bool wide : {false, true}) {
      for (const std::uint32_t rows : {5u, 130u, 200u, 257u}) {
        device_array<__nv_bfloat16> y_device(std::size_t{512} * intermediate);
        y_device.poison();
        const auto output = make_activation_matrix(y_device.data(), 512, intermediate).value();
        require(wide ? multiply_wide(input, rows, weights, {&output, true}, {{}, false}, stream)
                     : multiply_narrow(input, rows, weights, {nullptr, y_device.data()},
                                       {1, 2, false}, stream));
        const auto y = y_device.fetch();
        relative_error error;
        for (std::uint32_t i = 0; i < rows * intermediate; ++i)
          ASSERT_FALSE(std::isnan(to_float(y[i])));
        for (std::uint32_t i = 0; i < 2000; ++i) {
          const std::uint32_t row = random() % rows, f = random() % intermediate;
          const double g = dot(x, row, w, gate_row(f), depth), u = dot(x, row, w, up_row(f), depth);
          error.add(to_float(y[std::size_t{row} * intermediate + f]), g / (1 + std::exp(-g)) * u);
        }
        EXPECT_LT(error.value(), 4e-3) << (wide ? "wide, " : "narrow, ") << rows << " rows";
      }
    }
  }
}

TEST_F(gemm_test, wide_parts_equal_double_reference) {
  for (const layer_case l : layers) {
    const random_layer made(l, 512, random);
    for (const std::uint32_t rows : {1u, 70u, 130u, 256u}) {
      for (const wide_shape shape : {wide_shape{256, 1}, {256, 3}, {192, 2}, {128, 3}}) {
        device_array<float> y_device(std::size_t{shape.splits} * rows * l.features);
        y_device.poison();
        require(multiply_wide(made.input, rows, made.weights, {nullptr, false, y_device.data()},
                              {shape, false}, stream));
        const auto y = y_device.fetch();
        for (const float v : y) ASSERT_FALSE(std::isnan(v)) << "an output was not written";
        relative_error error;
        for (std::uint32_t i = 0; i < 300; ++i) {
          const std::uint32_t row = random() % rows, feature = random() % l.features;
          double got = 0;
          for (std::uint32_t s = 0; s < shape.splits; ++s)
            got += y[(std::size_t{s} * rows + row) * l.features + feature];
          error.add(got, dot(made.x, row, made.w, feature, l.depth));
        }
        EXPECT_LT(error.value(), 3e-5) << l.features << " x " << l.depth << ", " << rows
                                       << " rows, " << shape.width << " x " << shape.splits;
      }
    }
  }
}

TEST_F(gemm_test, wide_equals_double_reference) {
  for (const layer_case l : layers) {
    const std::uint32_t capacity = 2560;
    const random_layer made(l, capacity, random);
    for (const std::uint32_t rows : {1u, 257u, 1000u, 2560u}) {
      device_array<__nv_bfloat16> y_device(std::size_t{capacity} * l.features);
      y_device.poison();
      const auto output = make_activation_matrix(y_device.data(), capacity, l.features).value();
      require(multiply_wide(made.input, rows, made.weights, {&output}, {{}, false}, stream));
      const auto y = y_device.fetch();
      for (std::size_t i = 0; i < std::size_t{rows} * l.features; ++i)
        ASSERT_FALSE(std::isnan(to_float(y[i]))) << i;
      relative_error error;
      for (std::uint32_t i = 0; i < 1000; ++i) {
        const std::uint32_t row = random() % rows, feature = random() % l.features;
        error.add(to_float(y[std::size_t{row} * l.features + feature]),
                  dot(made.x, row, made.w, feature, l.depth));
      }
      EXPECT_LT(error.value(), 3e-3) << l.features << " x " << l.depth << ", " << rows << " rows";
    }
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda
