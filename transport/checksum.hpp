// XXH3-64 over payloads, alone or while copying them: one load feeds the store and the sum, so that
// the sum is of exactly the bytes that were copied even if the source changes meanwhile, and costs
// next to nothing where the copy is bound by memory. The result equals libxxhash's XXH3_64bits (the
// spec is https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md). Kernels are chosen once for the
// CPU. Any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace troupe::transport {

// A copy of `bytes` bytes in parts that sums what it copies. Long copies go past the cache (non-temporal stores): a
// pulled block is larger than the cache that would be lost to it.
class summing_copy {
 public:
  static constexpr std::size_t granule = 1024;

  summing_copy(std::byte* to, std::size_t bytes, bool want_sum);

  // The next `bytes` bytes come from here. REQUIRES: bytes is a multiple of `granule` or all that is left.
  void append(const std::byte* from, std::size_t bytes);
  std::size_t copied() const { return copied_; }
  std::size_t left() const { return bytes_ - copied_; }
  bool done() const { return copied_ == bytes_; }
  // REQUIRES: done() and want_sum.
  std::uint64_t sum() const;

 private:
  std::byte* to_;
  std::size_t bytes_, copied_ = 0;
  bool want_sum_;
  alignas(64) std::array<std::uint64_t, 8> lanes_;
};

std::uint64_t checksum64(std::span<const std::byte> data);

// "avx512", "avx2" or "portable"; for tests, to try each that the CPU has. Returns false if it has
// not.
const char* checksum_kernel();
bool use_checksum_kernel(const char* name);

}  // namespace troupe::transport
