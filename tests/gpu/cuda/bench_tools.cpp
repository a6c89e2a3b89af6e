#include "tests/gpu/cuda/bench_tools.hpp"

#include <dlfcn.h>

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

energy_meter::energy_meter() {
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (library == nullptr) return;
  const auto start = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
  const auto find =
      reinterpret_cast<int (*)(unsigned, void**)>(dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
  if (start == nullptr || find == nullptr || start() != 0 || find(0, &device_) != 0) return;
  read_ = reinterpret_cast<int (*)(void*, unsigned long long*)>(
      dlsym(library, "nvmlDeviceGetTotalEnergyConsumption"));
}

double energy_meter::joules() const {
  unsigned long long thousandths = 0;
  return read_ != nullptr && read_(device_, &thousandths) == 0
             ? static_cast<double>(thousandths) / 1e3
             : 0;
}

device_buffer<__nv_bfloat16> random_bf16(std::size_t count, float deviation) {
  auto made = need(device_buffer<__nv_bfloat16>::make(count, "bench"));
  need(fill_random(made.data(), count, 7, deviation, cudaStreamPerThread));
  return made;
}

}  // namespace troupe::gpu::cuda
