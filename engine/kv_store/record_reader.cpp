#include "engine/kv_store/record_reader.hpp"

#include <unistd.h>

#ifdef TROUPE_HAVE_URING
#include <liburing.h>
#endif

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace troupe::engine {
namespace {

constexpr std::size_t page = 4096;

struct free_deleter {
  void operator()(std::byte* p) const { std::free(p); }
};
using buffer = std::unique_ptr<std::byte, free_deleter>;

buffer aligned(std::size_t bytes) {
  buffer b(static_cast<std::byte*>(std::aligned_alloc(page, (bytes + page - 1) / page * page)));
  TROUPE_ASSERT(b != nullptr);
  return b;
}

// From `got` bytes on, one call after the other.
result<void> read_rest(int descriptor, std::uint64_t offset, std::span<std::byte> to,
                       std::size_t got) {
  while (got < to.size()) {
    const auto n =
        ::pread(descriptor, to.data() + got, to.size() - got, static_cast<off_t>(offset + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(ec::io_error, std::string("reading: ") + std::strerror(errno));
    if (n == 0) return fail(ec::corrupt_file, "the file is shorter than its records");
    got += static_cast<std::size_t>(n);
  }
  return {};
}

class one_by_one final : public record_reader {
 public:
  one_by_one(int descriptor, std::size_t record_bytes, std::string why)
      : descriptor_(descriptor),
        record_bytes_(record_bytes),
        why_(std::move(why)),
        buffer_(aligned(record_bytes)) {}

  void read(std::span<const std::uint64_t> offsets, const completion& done) override {
    const std::span<std::byte> to(buffer_.get(), record_bytes_);
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      auto got = read_rest(descriptor_, offsets[i], to, 0);
      if (got)
        done(i, std::span<const std::byte>(to));
      else
        done(i, tl::make_unexpected(got.error()));
    }
  }
  std::string description() const override { return "pread (" + why_ + ")"; }

 private:
  const int descriptor_;
  const std::size_t record_bytes_;
  const std::string why_;
  buffer buffer_;
};

#ifdef TROUPE_HAVE_URING
class many_at_once final : public record_reader {
 public:
  many_at_once(int descriptor, std::size_t record_bytes, io_uring ring)
      : descriptor_(descriptor), record_bytes_(record_bytes), ring_(ring) {
    for (auto& b : buffers_) b = aligned(record_bytes);
  }
  ~many_at_once() override { io_uring_queue_exit(&ring_); }

  void read(std::span<const std::uint64_t> offsets, const completion& done) override {
    std::array<std::size_t, depth> index{};  // of the read that a buffer is for
    std::size_t next = 0, under_way = 0;
    auto start = [&](std::size_t slot) {
      io_uring_sqe* e = io_uring_get_sqe(&ring_);
      TROUPE_ASSERT(e != nullptr);  // the ring has a place for every buffer
      io_uring_prep_read(e, descriptor_, buffers_[slot].get(), static_cast<unsigned>(record_bytes_),
                         offsets[next]);
      io_uring_sqe_set_data64(e, slot);
      index[slot] = next++;
      ++under_way;
    };
    for (std::size_t slot = 0; slot < depth && next < offsets.size(); ++slot) start(slot);
    while (under_way > 0) {
      io_uring_cqe* e = nullptr;
      const int waited = io_uring_submit_and_wait(&ring_, 1);
      if (waited < 0 && waited != -EINTR && waited != -EAGAIN && waited != -EBUSY) break;
      while (io_uring_peek_cqe(&ring_, &e) == 0) {
        const auto slot = static_cast<std::size_t>(io_uring_cqe_get_data64(e));
        const int got = e->res;
        io_uring_cqe_seen(&ring_, e);
        --under_way;
        deliver(index[slot], offsets[index[slot]], slot, got, done);
        if (next < offsets.size()) start(slot);
      }
    }
    TROUPE_ASSERT(under_way == 0);  // else the kernel still writes into the buffers
  }
  std::string description() const override { return "io_uring"; }

 private:
  void deliver(std::size_t i, std::uint64_t offset, std::size_t slot, int got,
               const completion& done) {
    const std::span<std::byte> to(buffers_[slot].get(), record_bytes_);
    // What came short, or was interrupted, is read on the plain way, which also tells what is wrong.
    auto read = read_rest(descriptor_, offset, to, got > 0 ? static_cast<std::size_t>(got) : 0);
    if (read)
      done(i, std::span<const std::byte>(to));
    else
      done(i, tl::make_unexpected(read.error()));
  }

  const int descriptor_;
  const std::size_t record_bytes_;
  io_uring ring_;
  std::array<buffer, depth> buffers_;
};
#endif

}  // namespace

std::unique_ptr<record_reader> record_reader::make(int descriptor, std::size_t record_bytes,
                                                   bool use_io_uring) {
  if (!use_io_uring)
    return std::make_unique<one_by_one>(descriptor, record_bytes, "io_uring is off");
#ifdef TROUPE_HAVE_URING
  io_uring ring{};
  const int made = io_uring_queue_init(depth, &ring, 0);
  if (made == 0) return std::make_unique<many_at_once>(descriptor, record_bytes, ring);
  return std::make_unique<one_by_one>(descriptor, record_bytes,
                                      std::string("io_uring is refused: ") + std::strerror(-made));
#else
  return std::make_unique<one_by_one>(descriptor, record_bytes, "built without liburing");
#endif
}

}  // namespace troupe::engine
