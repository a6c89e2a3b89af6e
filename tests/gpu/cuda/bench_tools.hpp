// What the CUDA device's benchmarks share.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <functional>

#include "gpu/cuda/buffer.hpp"

namespace troupe::gpu::cuda {

extern double read_bandwidth;  // of the card, bytes a second; main measures it first

struct layer_shape {
  const char* name;
  std::uint32_t features, depth;
};
inline constexpr layer_shape llama_layers[] = {{"qkv", 6144, 4096},
                                               {"o", 4096, 4096},
                                               {"gate_up", 28672, 4096},
                                               {"down", 4096, 14336},
                                               {"lm_head", 128256, 4096}};

// Median of the mean time of `batch` calls, microseconds.
double time_us(const std::function<void()>& call, int batch = 10, int repeats = 7);

// What GPU 0 has used, by NVML, which comes with the driver. Its counter moves every tenth of a second or so.
class energy_meter {
 public:
  energy_meter();
  double joules() const;  // since the driver started; 0: not known

 private:
  void* device_ = nullptr;
  int (*read_)(void*, unsigned long long*) = nullptr;
};

device_buffer<__nv_bfloat16> random_bf16(std::size_t count, float deviation);

}  // namespace troupe::gpu::cuda
