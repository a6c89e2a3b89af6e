#include "gpu/cuda/status.hpp"

#include <string>

namespace troupe::gpu::cuda {

result<void> checked(cudaError_t code, std::string_view doing) {
  if (code == cudaSuccess) return {};
  std::string text = std::string(cudaGetErrorName(code)) + " while " + std::string(doing) + ": ";
  switch (code) {
    case cudaErrorMemoryAllocation:
      cudaGetLastError();  // not sticky: the next call must not report it again
      return fail(ec::out_of_memory,
                  text +
                      "the GPU's memory is full; use fewer KV blocks, a smaller max_batch_tokens, "
                      "a smaller or quantized model, or another GPU (cuda:N)");
    case cudaErrorNoDevice:
      return fail(ec::unsupported,
                  text +
                      "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use "
                      "--device cpu");
    case cudaErrorInsufficientDriver:
      return fail(ec::unsupported,
                  text +
                      "no NVIDIA driver is installed, or it is older than CUDA 13 (580); install a "
                      "newer driver, or use --device cpu");
    case cudaErrorInvalidDevice:
      return fail(ec::invalid_argument, text + "there is no GPU of this number");
    case cudaErrorNoKernelImageForDevice:
      return fail(ec::unsupported,
                  text +
                      "this build's kernels are for compute capability 9.0 (H100, H200); use "
                      "--device cpu");
    case cudaErrorDevicesUnavailable:
      return fail(ec::unsupported, text + "another process holds the GPU exclusively");
    default:
      return fail(ec::device_lost,
                  text + cudaGetErrorString(code) +
                      "; the process must be restarted to use the GPU again (dmesg names an Xid or "
                      "ECC error, if there was one)");
  }
}

}  // namespace troupe::gpu::cuda
