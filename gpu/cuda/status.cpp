#include "gpu/cuda/status.hpp"

#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace troupe::gpu::cuda {
namespace {

struct meaning {
  ec code;
  const char* way_out;
};

// What the machine lacks, or has set up otherwise: seen when the device is opened.
meaning of_setup(cudaError_t code) {
  switch (code) {
    case cudaErrorNoDevice:
      return {ec::unsupported,
              "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use "
              "--device cpu"};
    case cudaErrorInsufficientDriver:
    case cudaErrorCallRequiresNewerDriver:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorStubLibrary:
      return {ec::unsupported,
              "no NVIDIA driver is installed, or it is older than CUDA 13 (580); install a newer "
              "driver, or use --device cpu"};
    case cudaErrorSystemDriverMismatch:
      return {ec::unsupported,
              "the driver's kernel module and its library are of different versions; reboot after "
              "a driver's update, or use --device cpu"};
    case cudaErrorSystemNotReady:
      return {ec::unsupported,
              "the GPU waits for a service of its machine; start nvidia-fabricmanager (servers "
              "with NVSwitch need it), or use --device cpu"};
    case cudaErrorInitializationError:
    case cudaErrorOperatingSystem:
    case cudaErrorNotPermitted:
    case cudaErrorStartupFailure:
      return {ec::unsupported,
              "the driver did not start; may this user open /dev/nvidia*, and has the container "
              "been given the GPU (docker: --gpus all)? Else use --device cpu"};
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidKernelImage:
      return {ec::unsupported,
              "this build's kernels are for compute capability 9.0 (H100, H200); use --device cpu"};
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceAlreadyInUse:
      return {ec::unsupported,
              "another process holds the GPU for itself (nvidia-smi shows it and the compute "
              "mode), or the GPU has left the bus (Xid 79 in dmesg: reboot); take another one "
              "(cuda:N)"};
    case cudaErrorMpsConnectionFailed:
    case cudaErrorMpsServerNotReady:
    case cudaErrorMpsMaxClientsReached:
    case cudaErrorMpsMaxConnectionsReached:
      return {ec::unsupported,
              "CUDA's multi-process service does not take this process; check "
              "nvidia-cuda-mps-control, or unset CUDA_MPS_PIPE_DIRECTORY"};
    default:
      return {ec::none, nullptr};
  }
}

// What ends the process's use of the GPU.
meaning of_loss(cudaError_t code) {
  switch (code) {
    case cudaErrorECCUncorrectable:
    case cudaErrorContained:
      return {ec::device_lost,
              "the GPU's memory has an error that ECC cannot correct (Xid 48, 63, 94 or 95 in "
              "dmesg); start the process again; if it comes back, reset or replace the GPU "
              "(nvidia-smi -q -d ECC,ROW_REMAPPER)"};
    case cudaErrorNvlinkUncorrectable:
      return {ec::device_lost,
              "NVLink has failed (Xid 74 in dmesg; nvidia-smi nvlink -e); start the process again; "
              "if it comes back, reset the GPUs at both ends"};
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorAssert:
    case cudaErrorLaunchFailure:
      return {ec::device_lost,
              "a kernel failed (Xid 13 or 31 in dmesg); start the process again; if it comes back "
              "on every GPU it is a bug here, please report it; if on one, suspect the GPU"};
    case cudaErrorLaunchTimeout:
    case cudaErrorTimeout:
      return {ec::device_lost,
              "a kernel ran for longer than the driver allows (Xid 8 in dmesg); do not use a GPU "
              "that drives a display; start the process again"};
    case cudaErrorMpsRpcFailure:
    case cudaErrorMpsClientTerminated:
      return {ec::device_lost,
              "CUDA's multi-process service ended, or another of its processes failed and took "
              "this one along; start the process again"};
    default:
      return {ec::device_lost,
              "the process must be started again to use the GPU (dmesg names an Xid or ECC error, "
              "if there was one)"};
  }
}

bool is_misuse(cudaError_t code) {
  switch (code) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorInvalidClusterSize:
      return true;
    default:
      return code >= cudaErrorStreamCaptureUnsupported && code <= cudaErrorStreamCaptureWrongThread;
  }
}

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

result<void> checked(cudaError_t code, std::string_view doing) {
  if (code == cudaSuccess) return {};
  const std::string text =
      std::string(cudaGetErrorName(code)) + " while " + std::string(doing) + ": ";
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: the next call must not report it again
    return fail(ec::out_of_memory,
                text +
                    "the GPU's memory is full; use fewer KV blocks, a smaller max_batch_tokens, a "
                    "smaller or quantized model, or another GPU (cuda:N)");
  }
  if (code == cudaErrorInvalidDevice)
    return fail(ec::invalid_argument, text + "there is no GPU of this number");
  if (is_misuse(code))
    return fail(ec::internal,
                text + cudaGetErrorString(code) + "; this is a bug here, please report it");
  if (const meaning m = of_setup(code); m.code != ec::none) return fail(m.code, text + m.way_out);
  const meaning m = of_loss(code);
  return fail(m.code, text + cudaGetErrorString(code) + "; " + m.way_out);
}

result<void> wait_for(const std::function<cudaError_t()>& state, std::chrono::milliseconds limit,
                      std::string_view doing) {
  const auto end = std::chrono::steady_clock::now() + limit;
  for (;;) {
    const cudaError_t code = state();
    if (code != cudaErrorNotReady) return checked(code, doing);
    if (std::chrono::steady_clock::now() >= end)
      return fail(ec::device_lost,
                  "the GPU has not answered for " + std::to_string(limit.count()) + " ms while " +
                      std::string(doing) +
                      "; the process must be started again, and the GPU reset if nvidia-smi hangs "
                      "too (dmesg names an Xid, if there was one)");
    for (int i = 0; i < 8; ++i) relax();
  }
}

result<void> finish(cudaStream_t stream, std::string_view doing) {
  return wait_for([&] { return cudaStreamQuery(stream); }, longest_work, doing);
}

result<void> finish(cudaEvent_t event, std::string_view doing) {
  return wait_for([&] { return cudaEventQuery(event); }, longest_work, doing);
}

}  // namespace troupe::gpu::cuda
