// Arenas that processes on one host can map: anonymous files (memfd) that the owner holds open and readers open again
// through /proc, read only, so that the kernel itself keeps peers from writing. Nothing appears in /dev/shm and nothing
// is left behind by a process that dies; a mapping outlives its owner. Any thread.
//
// Why not UCX's shared memory: unpacking the key of a process that has just died crashes UCX 1.13
// (uct_posix_rkey_release), its mappings are writable, and it is bounded by the size of /dev/shm.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.hpp"

namespace troupe::transport {

// How a reader finds an arena. All zero: not shared.
struct shared_name {
  std::int32_t process = 0, descriptor = -1;
  std::uint64_t inode = 0;  // of the anonymous file: a reused pid or descriptor has another
};

class shared_memory {
 public:
  shared_memory() = default;
  ~shared_memory();
  shared_memory(shared_memory&& other) noexcept;
  shared_memory& operator=(shared_memory&& other) noexcept;

  // ec::out_of_memory names the limit. Pages come when they are first touched.
  static result<shared_memory> make(std::size_t bytes);
  // Read only. ec::not_found: the owner is gone; ec::unsupported: this process may not map it.
  static result<shared_memory> open(const shared_name& name, std::size_t bytes);

  // A reader's: maps some of the pages that the owner has made since, so that reading them for the first time costs no
  // faults. Reads nothing, makes no page, and leaves what is beyond the first GiB to the faults. False: nothing is new.
  bool map_ahead();

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  shared_name name() const;

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t mapped_ = 0;  // a reader's: pages up to here are mapped, or had not been made
  int descriptor_ = -1;
};

}  // namespace troupe::transport
