// Reads many records of a file at once: through io_uring where this build has liburing and the kernel allows it, so that
// the device has several reads to work on while the first to come is verified; else one after the other.
//
// Owner and thread: one block_file; its I/O thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.hpp"

namespace troupe::engine {

struct free_deleter {
  void operator()(std::byte* p) const { std::free(p); }
};
// Aligned as O_DIRECT wants it.
using page_buffer = std::unique_ptr<std::byte, free_deleter>;
page_buffer make_page_buffer(std::size_t bytes);

// Reads until `to` is full, from its byte `got` on. ec::corrupt_file: the file ends before.
result<void> read_whole(int descriptor, std::uint64_t offset, std::span<std::byte> to,
                        std::size_t got = 0);

class record_reader {
 public:
  static constexpr std::size_t depth = 8;  // reads under way

  // `records` of equal size, at multiples of what O_DIRECT wants.
  static std::unique_ptr<record_reader> make(int descriptor, std::size_t record_bytes,
                                             bool use_io_uring = true);
  virtual ~record_reader() = default;

  // Calls `done` once for each offset, in the order in which they come; the bytes are good during the call only.
  using completion = std::function<void(std::size_t index, result<std::span<const std::byte>>)>;
  virtual void read(std::span<const std::uint64_t> offsets, const completion& done) = 0;
  virtual std::string description() const = 0;  // "io_uring", or "pread" and why; of any thread
};

}  // namespace troupe::engine
