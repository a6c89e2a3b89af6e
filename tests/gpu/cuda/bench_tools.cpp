#include "tests/gpu/cuda/bench_tools.hpp"

#include <algorithm>
#include <vector>

#include "gpu/cuda/synthesize.hpp"
#include "tests/gpu/cuda/need.hpp"

namespace troupe::gpu::cuda {

double read_bandwidth = 0;

double time_us(const std::function<void()>& call, int batch, int repeats) {
  cudaEvent_t start = nullptr, stop = nullptr;
  cudaEventCreate(&start);
  cudaEventCreate(&stop);
  for (int i = 0; i < batch; ++i) call();
  std::vector<float> times;
  for (int r = 0; r < repeats; ++r) {
    cudaEventRecord(start, cudaStreamPerThread);
    for (int i = 0; i < batch; ++i) call();
    cudaEventRecord(stop, cudaStreamPerThread);
    cudaEventSynchronize(stop);
    float ms = 0;
    cudaEventElapsedTime(&ms, start, stop);
    times.push_back(ms * 1e3f / static_cast<float>(batch));
  }
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  need(checked(cudaGetLastError(), "timing"));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

device_buffer<__nv_bfloat16> random_bf16(std::size_t count, float deviation) {
  auto made = need(device_buffer<__nv_bfloat16>::make(count, "bench"));
  need(fill_random(made.data(), count, 7, deviation, cudaStreamPerThread));
  return made;
}

}  // namespace troupe::gpu::cuda
