// Needs no GPU: every fault of one is a typed error that names the way out, and a pass that never ends is a fault.
#include "gpu/cuda/status.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gpu/cuda/device.hpp"

namespace troupe::gpu::cuda {
namespace {

using ::testing::HasSubstr;

TEST(cuda_status, faults_are_typed_and_name_the_way_out) {
  const struct {
    cudaError_t code;
    ec wanted;
    const char* says;
  } cases[] = {
      {cudaErrorMemoryAllocation, ec::out_of_memory, "fewer KV blocks"},
      {cudaErrorNoDevice, ec::unsupported, "--device cpu"},
      {cudaErrorInsufficientDriver, ec::unsupported, "580"},
      {cudaErrorUnsupportedPtxVersion, ec::unsupported, "newer driver"},
      {cudaErrorSystemDriverMismatch, ec::unsupported, "reboot"},
      {cudaErrorSystemNotReady, ec::unsupported, "nvidia-fabricmanager"},
      {cudaErrorInitializationError, ec::unsupported, "/dev/nvidia"},
      {cudaErrorNoKernelImageForDevice, ec::unsupported, "9.0"},
      {cudaErrorDevicesUnavailable, ec::unsupported, "compute mode"},
      {cudaErrorMpsServerNotReady, ec::unsupported, "nvidia-cuda-mps-control"},
      {cudaErrorInvalidDevice, ec::invalid_argument, "no GPU of this number"},
      {cudaErrorECCUncorrectable, ec::device_lost, "ECC"},
      {cudaErrorContained, ec::device_lost, "ECC"},
      {cudaErrorNvlinkUncorrectable, ec::device_lost, "NVLink"},
      {cudaErrorIllegalAddress, ec::device_lost, "Xid 13 or 31"},
      {cudaErrorLaunchFailure, ec::device_lost, "start the process again"},
      {cudaErrorHardwareStackError, ec::device_lost, "start the process again"},
      {cudaErrorLaunchTimeout, ec::device_lost, "Xid 8"},
      {cudaErrorMpsClientTerminated, ec::device_lost, "multi-process service"},
      {cudaErrorUnknown, ec::device_lost, "dmesg"},
      {cudaErrorInvalidValue, ec::internal, "bug"},
      {cudaErrorStreamCaptureInvalidated, ec::internal, "bug"},
  };
  for (const auto& c : cases) {
    const auto r = checked(c.code, "doing it");
    ASSERT_FALSE(r.has_value());
    EXPECT_EQ(r.error().code, c.wanted) << r.error().detail;
    EXPECT_THAT(r.error().detail, HasSubstr(c.says));
    EXPECT_THAT(r.error().detail, HasSubstr("while doing it"));
    EXPECT_THAT(r.error().detail, HasSubstr(cudaGetErrorName(c.code)));
  }
  EXPECT_TRUE(checked(cudaSuccess, "doing it").has_value());
}

TEST(cuda_status, a_pass_that_does_not_end_loses_the_device) {
  using std::chrono::milliseconds;
  const auto never = wait_for([] { return cudaErrorNotReady; }, milliseconds(5), "a forward pass");
  ASSERT_FALSE(never.has_value());
  EXPECT_EQ(never.error().code, ec::device_lost);
  EXPECT_THAT(never.error().detail, HasSubstr("5 ms while a forward pass"));
  int asked = 0;
  EXPECT_TRUE(wait_for([&] { return ++asked < 1000 ? cudaErrorNotReady : cudaSuccess; },
                       std::chrono::minutes(5), "a forward pass")
                  .has_value());
  EXPECT_EQ(asked, 1000);
  const auto failed =
      wait_for([] { return cudaErrorECCUncorrectable; }, milliseconds(5), "a forward pass");
  EXPECT_EQ(failed.error().code, ec::device_lost);
  EXPECT_THAT(failed.error().detail, HasSubstr("ECC"));
}

TEST(cuda_device, cards_without_kernels_are_refused_by_name) {
  EXPECT_TRUE(check_card("NVIDIA H100", 9, 0).has_value());
  for (const auto& [major, minor] : {std::pair{8, 0}, {9, 1}, {10, 0}}) {
    const auto refused = check_card("NVIDIA X", major, minor);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ec::unsupported);
    EXPECT_THAT(refused.error().detail, HasSubstr("NVIDIA X has compute capability"));
    EXPECT_THAT(refused.error().detail, HasSubstr("--device cpu"));
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda
