#include "model/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>

namespace troupe::model {

namespace {

// Read by the signal handler, so plain atomics of fixed size. A file beyond the table is mapped all
// the same; its loss is then reported without its name.
struct mapping_slot {
  std::atomic<std::uintptr_t> begin{0}, end{0};
  std::array<char, 256> path{};  // written before `begin` is published
};
std::array<mapping_slot, 256> slots;
std::mutex slots_mutex;
struct sigaction previous_action;

int publish(std::span<const std::byte> bytes, const std::string& path) {
  std::lock_guard lock(slots_mutex);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    auto& slot = slots[i];
    if (slot.begin.load() != 0) continue;
    const auto length = std::min(path.size(), slot.path.size() - 1);
    std::memcpy(slot.path.data(), path.data(), length);
    slot.path[length] = '\0';
    const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
    slot.end.store(begin + bytes.size());
    slot.begin.store(begin);
    return static_cast<int>(i);
  }
  return -1;
}

void say(const char* text) {
  // Nothing can be done when standard error is gone too.
  [[maybe_unused]] auto written = ::write(STDERR_FILENO, text, std::strlen(text));
}

void on_lost_page(int signal, siginfo_t* about, void*) {
  const auto address = reinterpret_cast<std::uintptr_t>(about->si_addr);
  for (const auto& slot : slots) {
    const auto begin = slot.begin.load();
    if (begin == 0 || address < begin || address >= slot.end.load()) continue;
    say("troupe: io_error: the model file ");
    say(slot.path.data());
    say(" was truncated, or its disk failed, while in use; replace it (write a new file and "
        "rename) and start again\n");
    ::_exit(74);
  }
  // Not ours: put back what was there; the faulting instruction runs again and meets it.
  ::sigaction(signal, &previous_action, nullptr);
}

std::string reason() {
  return std::strerror(errno);
}

std::int64_t modified_ns(const struct stat& status) {
  return static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

}  // namespace

result<std::shared_ptr<const mapped_file>> mapped_file::open(const std::filesystem::path& path) {
  std::shared_ptr<mapped_file> file(new mapped_file);
  file->path_ = path;
  // O_NONBLOCK: a FIFO in place of the file must not make open wait.
  file->fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->fd_ < 0)
    return fail(errno == ENOENT ? ec::not_found : ec::io_error,
                path.string() + ": cannot open: " + reason());
  struct stat status {};
  if (::fstat(file->fd_, &status) != 0)
    return fail(ec::io_error, path.string() + ": cannot stat: " + reason());
  if (!S_ISREG(status.st_mode))
    return fail(ec::invalid_argument, path.string() + ": is not a regular file");
  if (status.st_size == 0)
    return fail(ec::corrupt_file, path.string() + ": is empty; download it again");
  const auto size = static_cast<std::size_t>(status.st_size);
  void* at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file->fd_, 0);
  if (at == MAP_FAILED) return fail(ec::io_error, path.string() + ": cannot map: " + reason());
  file->bytes_ = {static_cast<const std::byte*>(at), size};
  file->modified_ns_ = modified_ns(status);
  file->slot_ = publish(file->bytes_, path.string());
  return file;
}

mapped_file::~mapped_file() {
  if (slot_ >= 0) slots[static_cast<std::size_t>(slot_)].begin.store(0);
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  if (fd_ >= 0) ::close(fd_);
}

void mapped_file::expect_sequential_reads(bool expect) const {
  ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(),
            expect ? MADV_SEQUENTIAL : MADV_NORMAL);
}

result<void> mapped_file::verify() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0)
    return fail(ec::io_error, path_.string() + ": cannot stat: " + reason());
  if (static_cast<std::size_t>(status.st_size) == bytes_.size() &&
      modified_ns(status) == modified_ns_)
    return {};
  return fail(ec::io_error,
              path_.string() +
                  ": changed while it was read; write a new file beside it and rename it "
                  "instead of writing in place, then start again");
}

void report_lost_mappings() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_lost_page;
    action.sa_flags = SA_SIGINFO;
    ::sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, &action, &previous_action);
  });
}

}  // namespace troupe::model
