// A file mapped read-only. A file that shrinks while it is mapped raises SIGBUS on the next touch
// of the lost pages; `verify` finds a change at the points where a reader can still refuse, and the
// handler of `report_lost_mappings` turns the rest into an exit that names the file. Never write a
// model file in place: write beside it and rename, and a running node keeps the old one. Immutable
// after open: any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "base/result.hpp"

namespace troupe::model {

class mapped_file {
 public:
  // Regular files only (a FIFO or device would block or lie about its size), of at least one byte.
  static result<std::shared_ptr<const mapped_file>> open(const std::filesystem::path& path);
  ~mapped_file();
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }
  // Tells the kernel that the bytes are about to be read from front to back, or no longer are. Only advice.
  void expect_sequential_reads(bool expect) const;
  // io_error when size or modification time differ from those at open.
  result<void> verify() const;

 private:
  mapped_file() = default;

  std::filesystem::path path_;
  int fd_ = -1;
  std::span<const std::byte> bytes_;
  std::int64_t modified_ns_ = 0;
  int slot_ = -1;  // in the table that the SIGBUS handler reads
};

// Installs a SIGBUS handler for the process: a lost page of a mapped model file ends it with exit
// status 74 (EX_IOERR) and a line on standard error; any other SIGBUS goes to the handler that was
// there before.
void report_lost_mappings();

}  // namespace troupe::model
