#include <algorithm>

#include "gpu/cuda/buffer.hpp"
#include "gpu/cuda/launch.hpp"
#include "tests/gpu/cuda/read_bandwidth.hpp"

namespace troupe::gpu::cuda {
namespace {

__global__ void __launch_bounds__(512)
    read_kernel(const uint4* from, std::size_t count, unsigned* to) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  unsigned sum = 0;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i + 3 * stride < count;
       i += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = __ldcs(from + i + k * stride);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (sum == 0x12345678u) *to = sum;
}

}  // namespace

result<double> measure_read_bandwidth() {
  constexpr std::size_t bytes = std::size_t{4} << 30;
  TROUPE_TRY(auto memory, device_buffer<uint4>::make(bytes / sizeof(uint4), "measuring"));
  TROUPE_TRY(auto result_word, device_buffer<unsigned>::make(1, "measuring"));
  cudaEvent_t start = nullptr, stop = nullptr;
  TROUPE_CHECK(checked(cudaEventCreate(&start), "measuring"));
  TROUPE_CHECK(checked(cudaEventCreate(&stop), "measuring"));
  float best = 1e9f;
  for (int i = 0; i < 8; ++i) {
    TROUPE_CHECK(checked(cudaEventRecord(start, nullptr), "measuring"));
    TROUPE_CHECK(launch("read", read_kernel, {dim3(132 * 4), dim3(512), 0}, nullptr, false,
                        memory.data(), memory.size(), result_word.data()));
    TROUPE_CHECK(checked(cudaEventRecord(stop, nullptr), "measuring"));
    TROUPE_CHECK(checked(cudaEventSynchronize(stop), "measuring"));
    float ms = 0;
    TROUPE_CHECK(checked(cudaEventElapsedTime(&ms, start, stop), "measuring"));
    best = std::min(best, ms);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  return static_cast<double>(bytes) / best * 1e3;
}

}  // namespace troupe::gpu::cuda
