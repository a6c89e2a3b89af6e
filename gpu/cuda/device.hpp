// Opening a GPU: which one, and whether this build can use it. Any thread; the calling thread's current device changes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe::gpu::cuda {

struct device_info {
  int index = 0;
  std::string name;  // "NVIDIA H100 80GB HBM3"
  std::uint32_t multiprocessors = 0;
  std::uint64_t memory_bytes = 0;
};

// ec::unsupported: this build has no kernels for the card.
result<void> check_card(const std::string& name, int major, int minor);

// `device`: "cuda" (number 0) or "cuda:N". ec::unsupported: no driver, an old one, no GPU, or a card without kernels.
result<device_info> open_device(std::string_view device);

}  // namespace troupe::gpu::cuda
