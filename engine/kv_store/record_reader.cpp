#include "engine/kv_store/record_reader.hpp"

#include <unistd.h>

#ifdef TROUPE_HAVE_URING
#include <liburing.h>
#endif

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "base/log.hpp"

namespace troupe::engine {
namespace {

constexpr std::size_t page = 4096;

// One record, by pread, after the other; what other ways leave over.
void read_plainly(int descriptor, std::uint64_t offset, std::span<std::byte> to, std::size_t got,
                  std::size_t index, const record_reader::completion& done) {
  auto read = read_whole(descriptor, offset, to, got);
  if (read)
    done(index, std::span<const std::byte>(to));
  else
    done(index, tl::make_unexpected(read.error()));
}

class one_by_one final : public record_reader {
 public:
  one_by_one(int descriptor, std::size_t record_bytes, std::string why)
      : descriptor_(descriptor),
        record_bytes_(record_bytes),
        why_(std::move(why)),
        buffer_(make_page_buffer(record_bytes)) {}

  void read(std::span<const std::uint64_t> offsets, const completion& done) override {
    const std::span<std::byte> to(buffer_.get(), record_bytes_);
    for (std::size_t i = 0; i < offsets.size(); ++i)
      read_plainly(descriptor_, offsets[i], to, 0, i, done);
  }
  std::string description() const override { return "pread (" + why_ + ")"; }

 private:
  const int descriptor_;
  const std::size_t record_bytes_;
  const std::string why_;
  page_buffer buffer_;
};

#ifdef TROUPE_HAVE_URING
class many_at_once final : public record_reader {
 public:
  many_at_once(int descriptor, std::size_t record_bytes, io_uring ring)
      : descriptor_(descriptor), record_bytes_(record_bytes), ring_(ring) {
    for (auto& b : buffers_) b = make_page_buffer(record_bytes);
  }
  ~many_at_once() override { io_uring_queue_exit(&ring_); }

  void read(std::span<const std::uint64_t> offsets, const completion& done) override {
    std::size_t next = 0;
    if (!refused_) {
      for (std::size_t slot = 0; slot < depth && next < offsets.size(); ++slot)
        prepare(slot, next++, offsets);
      while (in_kernel_ > 0 || !prepared_.empty()) {
        if (!submit()) break;
        while (const auto slot = reap(offsets, done))
          if (next < offsets.size()) prepare(*slot, next++, offsets);
      }
    }
    if (!refused_) return;
    // What the kernel took it still writes into our buffers; it ends like any read of the disk.
    while (in_kernel_ > 0)
      if (!reap(offsets, done)) std::this_thread::sleep_for(pause);
    for (const std::size_t slot : prepared_) plainly(index_[slot], offsets, done);
    prepared_.clear();
    while (next < offsets.size()) plainly(next++, offsets, done);
  }
  std::string description() const override { return "io_uring"; }

 private:
  static constexpr std::chrono::milliseconds pause{1};
  static constexpr int most_pauses = 100;

  void prepare(std::size_t slot, std::size_t i, std::span<const std::uint64_t> offsets) {
    io_uring_sqe* e = io_uring_get_sqe(&ring_);
    TROUPE_ASSERT(e != nullptr);  // the ring has a place for every buffer
    io_uring_prep_read(e, descriptor_, buffers_[slot].get(), static_cast<unsigned>(record_bytes_),
                       offsets[i]);
    io_uring_sqe_set_data64(e, slot);
    index_[slot] = i;
    prepared_.push_back(slot);
  }

  // Hands what is prepared to the kernel and waits for an end. False: it takes no more, for good.
  bool submit() {
    const int taken = io_uring_submit_and_wait(&ring_, 1);
    if (taken >= 0) {
      const auto count = std::min(static_cast<std::size_t>(taken), prepared_.size());
      prepared_.erase(prepared_.begin(), prepared_.begin() + static_cast<std::ptrdiff_t>(count));
      in_kernel_ += count;
      pauses_ = 0;
      return true;
    }
    if (taken == -EINTR) return true;
    if ((taken == -EAGAIN || taken == -EBUSY) && ++pauses_ <= most_pauses) {
      std::this_thread::sleep_for(pause);
      return true;
    }
    spdlog::warn("the KV store's file is read without io_uring from now on: {}",
                 std::strerror(-taken));
    refused_ = true;
    return false;
  }

  // Delivers one read that has ended; the slot that it leaves.
  std::optional<std::size_t> reap(std::span<const std::uint64_t> offsets, const completion& done) {
    io_uring_cqe* e = nullptr;
    if (io_uring_peek_cqe(&ring_, &e) != 0) return std::nullopt;
    const auto slot = static_cast<std::size_t>(io_uring_cqe_get_data64(e));
    const int got = e->res;
    io_uring_cqe_seen(&ring_, e);
    --in_kernel_;
    // What came short, or was interrupted, is read on the plain way, which also tells what is wrong.
    read_plainly(descriptor_, offsets[index_[slot]], {buffers_[slot].get(), record_bytes_},
                 got > 0 ? static_cast<std::size_t>(got) : 0, index_[slot], done);
    return slot;
  }

  void plainly(std::size_t i, std::span<const std::uint64_t> offsets, const completion& done) {
    read_plainly(descriptor_, offsets[i], {buffers_[0].get(), record_bytes_}, 0, i, done);
  }

  const int descriptor_;
  const std::size_t record_bytes_;
  io_uring ring_;
  std::array<page_buffer, depth> buffers_;
  std::array<std::size_t, depth> index_{};  // of the read that a buffer is for
  std::vector<std::size_t> prepared_;       // slots that the kernel has not taken, in order
  std::size_t in_kernel_ = 0;
  int pauses_ = 0;        // since the kernel took something
  bool refused_ = false;  // it takes no more
};
#endif

}  // namespace

page_buffer make_page_buffer(std::size_t bytes) {
  page_buffer b(
      static_cast<std::byte*>(std::aligned_alloc(page, (bytes + page - 1) / page * page)));
  TROUPE_ASSERT(b != nullptr);
  return b;
}

result<void> read_whole(int descriptor, std::uint64_t offset, std::span<std::byte> to,
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
