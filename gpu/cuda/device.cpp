#include "gpu/cuda/device.hpp"

#include <charconv>

#include "gpu/cuda/status.hpp"
#include "gpu/device_registry.hpp"

namespace troupe::gpu {
namespace cuda {
namespace {

result<int> device_index(std::string_view device) {
  if (device == "cuda") return 0;
  const std::string_view number = device.substr(device.find(':') + 1);
  int index = -1;
  const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), index);
  if (!device.starts_with("cuda:") || code != std::errc{} || end != number.data() + number.size() ||
      index < 0) {
    return fail(ec::invalid_argument, "device '" + std::string(device) + "' is not cuda or cuda:N");
  }
  return index;
}

}  // namespace

result<void> check_card(const std::string& name, int major, int minor) {
  if (major == 9 && minor == 0) return {};
  return fail(ec::unsupported,
              name + " has compute capability " + std::to_string(major) + "." +
                  std::to_string(minor) +
                  "; this build's kernels are for 9.0 (H100, H200, GH200); use --device cpu");
}

result<device_info> open_device(std::string_view device) {
  device_info info;
  TROUPE_TRY(info.index, device_index(device));
  int count = 0;
  TROUPE_CHECK(checked(cudaGetDeviceCount(&count), "looking for GPUs"));
  if (info.index >= count) {
    return fail(ec::invalid_argument, "device '" + std::string(device) + "': this machine shows " +
                                          std::to_string(count) + " GPUs, numbered from 0");
  }
  cudaDeviceProp properties{};
  TROUPE_CHECK(
      checked(cudaGetDeviceProperties(&properties, info.index), "asking for the GPU's properties"));
  info.name = properties.name;
  TROUPE_CHECK(check_card(info.name, properties.major, properties.minor));
  info.multiprocessors = static_cast<std::uint32_t>(properties.multiProcessorCount);
  info.memory_bytes = properties.totalGlobalMem;
  TROUPE_CHECK(checked(cudaSetDevice(info.index), "choosing the GPU"));
  TROUPE_CHECK(checked(cudaFree(nullptr), "starting the GPU's context"));
  return info;
}

}  // namespace cuda

bool cuda_available() {
  return cuda::open_device("cuda").has_value();
}

}  // namespace troupe::gpu
