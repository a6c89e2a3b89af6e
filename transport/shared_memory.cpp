#include "transport/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

namespace troupe::transport {
namespace {

std::string reason() {
  return std::strerror(errno);
}

// What the kernel says it can give without swapping; 0 if it does not say.
std::uint64_t available_bytes() {
  std::ifstream info("/proc/meminfo");
  std::string word;
  std::uint64_t kilobytes = 0;
  while (info >> word)
    if (word == "MemAvailable:" && info >> kilobytes) return kilobytes * 1024;
  return 0;
}

constexpr std::size_t map_step = 1 << 20, map_limit = 1 << 30;
constexpr int populate_read = 22;  // MADV_POPULATE_READ (Linux 5.14), which not all headers have

}  // namespace

shared_memory::~shared_memory() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

shared_memory::shared_memory(shared_memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_),
      mapped_(other.mapped_),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

shared_memory& shared_memory::operator=(shared_memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

result<shared_memory> shared_memory::make(std::size_t bytes) {
  if (auto available = available_bytes(); available != 0 && bytes > available)
    return fail(ec::out_of_memory, "an arena of " + std::to_string(bytes >> 20) +
                                       " MiB, but the machine has " +
                                       std::to_string(available >> 20) + " MiB available");
  shared_memory made;
  made.descriptor_ = ::memfd_create("troupe", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (made.descriptor_ < 0) return fail(ec::out_of_memory, "memfd_create: " + reason());
  if (::ftruncate(made.descriptor_, static_cast<off_t>(bytes)) != 0)
    return fail(ec::out_of_memory,
                "an arena of " + std::to_string(bytes >> 20) + " MiB: " + reason());
  // A file that cannot shrink cannot take a reader's pages away.
  ::fcntl(made.descriptor_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, made.descriptor_, 0);
  if (data == MAP_FAILED)
    return fail(ec::out_of_memory, "mapping " + std::to_string(bytes >> 20) + " MiB: " + reason());
  made.data_ = static_cast<std::byte*>(data);
  made.bytes_ = bytes;
  return made;
}

result<shared_memory> shared_memory::open(const shared_name& name, std::size_t bytes) {
  if (name.process <= 0 || name.descriptor < 0)
    return fail(ec::unsupported, "the peer's memory is not shared");
  std::string file =
      "/proc/" + std::to_string(name.process) + "/fd/" + std::to_string(name.descriptor);
  int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0)
    return fail(errno == ENOENT ? ec::not_found : ec::unsupported, file + ": " + reason());
  struct stat found {};
  bool right = ::fstat(descriptor, &found) == 0 && S_ISREG(found.st_mode) &&
               found.st_ino == name.inode && static_cast<std::uint64_t>(found.st_size) == bytes;
  void* data = right ? ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0) : MAP_FAILED;
  std::string why = right ? reason() : "another file is there now";
  if (data == MAP_FAILED) {
    ::close(descriptor);
    return fail(right ? ec::unsupported : ec::not_found, file + ": " + why);
  }
  shared_memory mapped;
  mapped.descriptor_ = descriptor;
  mapped.data_ = static_cast<std::byte*>(data);
  mapped.bytes_ = bytes;
  return mapped;
}

bool shared_memory::map_ahead() {
  const std::size_t limit = std::min(bytes_, map_limit);
  if (mapped_ >= limit) return false;
  // The owner takes its blocks from the lowest on, so what is new comes after what was there.
  const off_t data = ::lseek(descriptor_, static_cast<off_t>(mapped_), SEEK_DATA);
  if (data < 0 || static_cast<std::size_t>(data) >= limit) return false;
  const off_t hole = ::lseek(descriptor_, data, SEEK_HOLE);
  const auto from = static_cast<std::size_t>(data);
  const auto to =
      std::min({static_cast<std::size_t>(std::max(hole, data)), from + map_step, limit});
  const bool done = to > from && ::madvise(data_ + from, to - from, populate_read) == 0;
  mapped_ = done ? to : limit;  // a kernel without it is not asked again
  return done;
}

shared_name shared_memory::name() const {
  struct stat found {};
  if (descriptor_ < 0 || ::fstat(descriptor_, &found) != 0) return {};
  return {static_cast<std::int32_t>(::getpid()), descriptor_, found.st_ino};
}

}  // namespace troupe::transport
