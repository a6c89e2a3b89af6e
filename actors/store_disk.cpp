#include "actors/store_disk.hpp"

#include <pthread.h>

#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr std::size_t saves_limit = 512;

}  // namespace

store_disk::store_disk(engine::block_file& file, completion done)
    : file_(file), done_(std::move(done)) {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "store-disk");
}

store_disk::~store_disk() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void store_disk::load(std::uint64_t job, std::vector<load_piece> pieces) {
  {
    std::lock_guard lock(mutex_);
    loads_.emplace_back(job, std::move(pieces));
  }
  wake_.notify_one();
}

bool store_disk::room_to_save() const {
  std::lock_guard lock(mutex_);
  return saves_.size() < saves_limit;
}

void store_disk::save(std::uint64_t job, save_piece piece) {
  {
    std::lock_guard lock(mutex_);
    saves_.emplace_back(job, std::move(piece));
  }
  wake_.notify_one();
}

void store_disk::erase(std::vector<engine::record_id> records) {
  {
    std::lock_guard lock(mutex_);
    erasures_.insert(erasures_.end(), records.begin(), records.end());
  }
  wake_.notify_one();
}

void store_disk::run() {
  for (;;) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] {
      return stopping_ || !loads_.empty() || !saves_.empty() || !erasures_.empty();
    });
    if (stopping_) return;
    // Erasures first: a record that is claimed again must not be erased after it was written.
    if (!erasures_.empty()) {
      const auto record = erasures_.front();
      erasures_.pop_front();
      lock.unlock();
      if (auto ok = file_.erase(record); !ok)
        spdlog::warn("the KV store's file: {}", to_string(ok.error()));
    } else if (!loads_.empty()) {
      const auto job = std::move(loads_.front());
      loads_.pop_front();
      lock.unlock();
      do_load(job.first, job.second);
    } else {
      const auto job = std::move(saves_.front());
      saves_.pop_front();
      lock.unlock();
      do_save(job.first, job.second);
    }
  }
}

void store_disk::do_load(std::uint64_t job, const std::vector<load_piece>& pieces) {
  std::vector<bool> ok;
  for (const auto& read : file_.read_many(pieces)) {
    if (!read) spdlog::warn("the KV store's file: {}", to_string(read.error()));
    ok.push_back(read.has_value());
  }
  done_(job, std::move(ok));
}

void store_disk::do_save(std::uint64_t job, const save_piece& piece) {
  copy_.assign(piece.block.begin(), piece.block.end());
  if (!transport::verify(copy_, piece.expected)) return done_(job, {false});  // reused by now
  const auto written =
      file_.write(piece.record, piece.key, piece.sequence,
                  std::span<const std::byte>(copy_).first(copy_.size() - transport::fence_bytes));
  if (!written) spdlog::warn("the KV store's file: {}", to_string(written.error()));
  done_(job, written ? std::vector<bool>{true} : std::vector<bool>{});
}

}  // namespace troupe::actors
