// Owned memory: on the device, and pinned on the host. Move-only; freed on the device that was current when made.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <utility>

#include "gpu/cuda/status.hpp"

namespace troupe::gpu::cuda {

template <class T, bool kPinnedHost>
class buffer {
 public:
  buffer() = default;
  buffer(buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  buffer& operator=(buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~buffer() {
    if (data_ == nullptr) return;
    if constexpr (kPinnedHost) {
      cudaFreeHost(data_);
    } else {
      cudaFree(data_);
    }
  }

  // Zeroed, so that no kernel ever reads what another program left there.
  static result<buffer> make(std::size_t count, const char* purpose) {
    buffer made;
    const std::size_t bytes = count * sizeof(T);
    const std::string doing = "allocating " + std::to_string(bytes >> 20) + " MiB for " + purpose;
    void* memory = nullptr;
    if constexpr (kPinnedHost) {
      TROUPE_CHECK(checked(cudaMallocHost(&memory, bytes), doing));
      made.data_ = static_cast<T*>(memory);
      for (std::size_t i = 0; i < bytes; ++i) static_cast<char*>(memory)[i] = 0;
    } else {
      TROUPE_CHECK(checked(cudaMalloc(&memory, bytes), doing));
      made.data_ = static_cast<T*>(memory);
      TROUPE_CHECK(checked(cudaMemset(memory, 0, bytes), "clearing memory"));
      // The runner's stream does not wait for the legacy stream by itself.
      TROUPE_CHECK(checked(cudaStreamSynchronize(cudaStreamLegacy), "clearing memory"));
    }
    made.size_ = count;
    return made;
  }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return size_ * sizeof(T); }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

template <class T>
using device_buffer = buffer<T, false>;
template <class T>
using pinned_buffer = buffer<T, true>;

}  // namespace troupe::gpu::cuda
