// Anonymous memory for weights and activations: aligned to 2 MiB, in huge pages where the system gives them, zeroed.
// One owner; movable.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "base/result.hpp"

namespace troupe::gpu::host {

class aligned_memory {
 public:
  static result<aligned_memory> make(std::size_t bytes);
  aligned_memory() = default;
  ~aligned_memory();
  aligned_memory(aligned_memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  aligned_memory& operator=(aligned_memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Gives back the pages of `bytes` that a read-only mapping of a file holds; memory of any other kind is left alone.
// The file's next reader maps them again.
void drop_file_pages(std::span<const std::byte> bytes);

}  // namespace troupe::gpu::host
