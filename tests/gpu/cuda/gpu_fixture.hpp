// What the GPU tests share: skipping without a GPU, arrays on the device, random inputs, and the error measure.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gpu/cuda/buffer.hpp"
#include "gpu/cuda/device.hpp"

namespace troupe::gpu::cuda {

// A test of this fixture is skipped, with the reason, where no usable GPU is.
class gpu_test : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = open_device("cuda");
    if (!opened) GTEST_SKIP() << "needs a GPU: " << to_string(opened.error());
    device = *opened;
    stream = cudaStreamPerThread;
  }
  device_info device;
  cudaStream_t stream = nullptr;
  std::mt19937 random{std::random_device{}()};
};

template <class T>
void require(const result<T>& r) {
  ASSERT_TRUE(r.has_value()) << to_string(r.error());
}

template <class T>
class device_array {
 public:
  explicit device_array(std::size_t count) {
    buffer_ = std::move(device_buffer<T>::make(count, "a test").value());
  }
  explicit device_array(const std::vector<T>& values) : device_array(values.size()) {
    EXPECT_EQ(cudaSuccess,
              cudaMemcpy(buffer_.data(), values.data(), buffer_.bytes(), cudaMemcpyHostToDevice));
  }
  T* data() const { return buffer_.data(); }
  std::vector<T> fetch() const {
    std::vector<T> values(buffer_.size());
    EXPECT_EQ(cudaSuccess, cudaDeviceSynchronize());
    EXPECT_EQ(cudaSuccess,
              cudaMemcpy(values.data(), buffer_.data(), buffer_.bytes(), cudaMemcpyDeviceToHost));
    return values;
  }
  // All bits set: NaN in every floating-point type.
  void poison() { EXPECT_EQ(cudaSuccess, cudaMemset(buffer_.data(), 0xFF, buffer_.bytes())); }

 private:
  device_buffer<T> buffer_;
};

inline float to_float(float x) {
  return x;
}
inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
inline float to_float(__half x) {
  return __half2float(x);
}
template <class T>
T from_float(float x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16(x);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half(x);
  } else {
    return x;
  }
}

template <class T>
std::vector<T> random_values(std::size_t count, std::mt19937& random, float deviation = 1.0f) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<T> values(count);
  for (auto& v : values) v = from_float<T>(normal(random));
  return values;
}

// ||got - wanted|| / ||wanted|| over what add() saw; NaN never passes.
class relative_error {
 public:
  void add(double got, double wanted) {
    difference_ += (got - wanted) * (got - wanted);
    size_ += wanted * wanted;
  }
  double value() const { return std::sqrt(difference_ / size_); }

 private:
  double difference_ = 0, size_ = 0;
};

}  // namespace troupe::gpu::cuda
