#include "gpu/host/aligned_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

namespace troupe::gpu::host {
namespace {
constexpr std::size_t huge_page = std::size_t{2} << 20;

bool is_file_mapping(std::uintptr_t first, std::uintptr_t last) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t from = 0, to = 0;
    char permissions[5] = {};
    std::uint64_t inode = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %" SCNu64, &from, &to,
                    permissions, &inode) != 4) {
      continue;
    }
    if (from <= first && last <= to) return inode != 0 && permissions[1] == '-';
  }
  return false;
}
}  // namespace

result<aligned_memory> aligned_memory::make(std::size_t bytes) {
  aligned_memory m;
  if (bytes == 0) return m;
  // What lies before the aligned start and past the end is given back at once.
  const std::size_t wanted = (bytes + 4095) / 4096 * 4096, total = wanted + huge_page;
  void* raw = mmap(nullptr, total, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    return fail(ec::out_of_memory,
                "the system refused " + std::to_string(bytes >> 20) + " MiB for the model");
  }
  const auto begin = reinterpret_cast<std::uintptr_t>(raw);
  const std::uintptr_t aligned = (begin + huge_page - 1) / huge_page * huge_page;
  if (aligned > begin) munmap(raw, aligned - begin);
  if (begin + total > aligned + wanted) {
    munmap(reinterpret_cast<void*>(aligned + wanted), begin + total - aligned - wanted);
  }
  m.data_ = reinterpret_cast<std::byte*>(aligned);
  m.bytes_ = wanted;
  if (wanted >= huge_page)
    madvise(m.data_, wanted, MADV_HUGEPAGE);  // advice only: a refusal costs speed
  return m;
}

aligned_memory::~aligned_memory() {
  if (data_) munmap(data_, bytes_);
}

void drop_file_pages(std::span<const std::byte> bytes) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t first = (begin + page - 1) / page * page,
                       last = (begin + bytes.size()) / page * page;
  if (first >= last || !is_file_mapping(first, last)) return;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace troupe::gpu::host
