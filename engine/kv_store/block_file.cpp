#include "engine/kv_store/block_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "engine/kv_store/block_record.hpp"
#include "transport/fence.hpp"

namespace troupe::engine {
namespace {

constexpr std::uint64_t file_mark = 0x314C56'4B505254;  // "TRPKVL1"

struct file_header {
  std::uint64_t mark, record_bytes, payload_bytes, identity_high, identity_low;
  std::uint32_t block_tokens, text_bytes;
  char text[256];     // the identity for people
  std::uint64_t sum;  // of all before it
};
static_assert(sizeof(file_header) <= page);

std::size_t rounded(std::size_t bytes) {
  return (bytes + page - 1) / page * page;
}

tl::unexpected<error> failed(const char* what) {
  const int code = errno;
  return fail(code == ENOSPC || code == EDQUOT ? ec::out_of_memory : ec::io_error,
              std::string(what) + ": " + std::strerror(code));
}

// The kernel lets go of what a killed process had under io_uring a moment after its end: a store that is started again at
// once waits for that.
bool lock(int descriptor) {
  constexpr int tries = 50;
  constexpr std::chrono::milliseconds pause{20};
  for (int i = 0; i < tries; ++i) {
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno != EWOULDBLOCK && errno != EINTR) return false;
    std::this_thread::sleep_for(pause);
  }
  return false;
}

// A file that was killed while it was made has some of the mark, or nothing but zeros.
bool begins_as_ours(std::span<const std::byte> bytes) {
  return std::memcmp(bytes.data(), &file_mark, std::min(bytes.size(), sizeof file_mark)) == 0;
}
bool is_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

result<std::unique_ptr<block_file>> block_file::open(const std::filesystem::path& path,
                                                     const block_file_options& options) {
  const int flags = O_RDWR | O_CREAT | O_CLOEXEC;
  bool direct = true;
  int descriptor = ::open(path.c_str(), flags | O_DIRECT, 0600);
  if (descriptor < 0 && errno == EINVAL) {
    direct = false;
    descriptor = ::open(path.c_str(), flags, 0600);
  }
  if (descriptor < 0) return failed(path.c_str());
  auto file = std::unique_ptr<block_file>(new block_file(descriptor, direct, options));
  if (!lock(descriptor))
    return fail(ec::address_in_use, path.string() + ": another process uses this file");
  struct stat s {};
  if (::fstat(descriptor, &s) != 0) return failed(path.c_str());
  const std::uint64_t room = options.max_bytes > page ? options.max_bytes - page : 0;
  const std::uint64_t count = room / file->record_bytes_;
  if (count < 1)
    return fail(ec::invalid_argument, std::to_string(options.max_bytes) +
                                          " bytes hold no block of " +
                                          std::to_string(file->record_bytes_) + " bytes");
  file->records_.resize(std::min<std::uint64_t>(count, 1u << 24));
  auto size = file->check_or_make_header(static_cast<std::uint64_t>(s.st_size));
  if (!size) return fail(size.error().code, path.string() + ": " + size.error().detail);
  if (auto ok = file->recover(*size); !ok)
    return fail(ok.error().code, path.string() + ": " + ok.error().detail);
  return file;
}

block_file::block_file(int descriptor, bool direct, const block_file_options& options)
    : descriptor_(descriptor),
      direct_(direct),
      options_(options),
      record_bytes_(page + rounded(options.payload_bytes)),
      buffer_(make_page_buffer(record_bytes_)) {
  reader_ = record_reader::make(descriptor_, record_bytes_, options.use_io_uring);
  TROUPE_ASSERT(fits_a_header(options.block_tokens));
}

block_file::~block_file() {
  reader_.reset();
  // By name: a read that io_uring has just finished can keep the open file, and a lock on it, beyond the close.
  ::flock(descriptor_, LOCK_UN);
  ::close(descriptor_);
}

// -- opening -------------------------------------------------------------------------------------------------------------

result<std::uint64_t> block_file::check_or_make_header(std::uint64_t size) {
  if (size == 0) {
    TROUPE_CHECK(write_file_header());
    return page;
  }
  std::memset(buffer_.get(), 0, page);
  ssize_t got;
  do {
    got = ::pread(descriptor_, buffer_.get(), page, 0);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return failed("reading");
  file_header h;
  std::memcpy(&h, buffer_.get(), sizeof h);
  const std::span<const std::byte> there(buffer_.get(), static_cast<std::size_t>(got));
  if (!begins_as_ours(there) && !(size <= page && is_zero(there)))
    return fail(ec::corrupt_file,
                "is not a KV store's file: remove it, or choose another directory");
  const bool whole =
      there.size() == page && h.sum == header_checksum({buffer_.get(), offsetof(file_header, sum)});
  if (!whole) {  // killed while it was made, or damaged: what is behind it cannot be trusted
    if (::ftruncate(descriptor_, 0) != 0) return failed("truncating");
    TROUPE_CHECK(write_file_header());
    return page;
  }
  const hash128_t found{h.identity_high, h.identity_low};
  if (found != options_.kv_identity || h.record_bytes != record_bytes_ ||
      h.payload_bytes != options_.payload_bytes || h.block_tokens != options_.block_tokens)
    return fail(ec::identity_mismatch,
                "holds blocks of " +
                    std::string(h.text, std::min<std::size_t>(h.text_bytes, sizeof h.text)) + " (" +
                    to_hex(found) + "), this store is for " + options_.identity_text + " (" +
                    to_hex(options_.kv_identity) + "): choose another directory");
  return size;
}

result<void> block_file::write_file_header() {
  file_header h{};
  h.mark = file_mark;
  h.record_bytes = record_bytes_;
  h.payload_bytes = options_.payload_bytes;
  h.identity_high = options_.kv_identity.high;
  h.identity_low = options_.kv_identity.low;
  h.block_tokens = options_.block_tokens;
  h.text_bytes = static_cast<std::uint32_t>(std::min(options_.identity_text.size(), sizeof h.text));
  std::memcpy(h.text, options_.identity_text.data(), h.text_bytes);
  h.sum = header_checksum(std::as_bytes(std::span(&h, 1)).first(offsetof(file_header, sum)));
  std::memset(buffer_.get(), 0, page);
  std::memcpy(buffer_.get(), &h, sizeof h);
  return write_at(0, {buffer_.get(), page});
}

result<void> block_file::recover(std::uint64_t size) {
  std::uint64_t latest = 0;
  for (record_id r = 0; r < records_.size(); ++r) {
    if (offset_of(r) + record_bytes_ > size) break;
    if (!read_whole(descriptor_, offset_of(r), {buffer_.get(), page})) {
      ++counters_.unreadable;  // a bad place of the disk costs its block, not the others
      continue;
    }
    auto found = decode_record(buffer_.get(), options_.block_tokens);
    if (!found) continue;
    if (auto other = by_hash_.find(found->key.hash); other != by_hash_.end()) {
      if (records_[other->second].sequence > found->sequence) continue;
      records_[other->second] = {};
    }
    records_[r].state = record_state::present;
    records_[r].sequence = found->sequence;
    by_hash_[found->key.hash] = r;
    records_[r].key = std::move(found->key);
    if (found->sequence >= latest) {
      latest = found->sequence;
      hand_ = static_cast<record_id>((r + 1) % records_.size());
    }
  }
  next_sequence_ = latest + 1;
  if (options_.journal)
    for (const auto& [hash, r] : by_hash_) options_.journal->stored(hash);
  counters_.recovered = by_hash_.size();
  // A smaller bound than before: what is beyond it is gone.
  const std::uint64_t most = offset_of(static_cast<record_id>(records_.size()));
  if (size > most && ::ftruncate(descriptor_, static_cast<off_t>(most)) != 0)
    return failed("truncating");
  return {};
}

std::uint64_t block_file::offset_of(record_id r) const {
  return page + std::uint64_t{r} * record_bytes_;
}

// -- the index -----------------------------------------------------------------------------------------------------------

std::optional<record_id> block_file::find(const hash128_t& hash, const hash128_t& parent,
                                          std::span<const token_id> tokens) const {
  const auto r = present(hash);
  return r && records_[*r].key.is(parent, tokens) ? r : std::nullopt;
}

void block_file::forget(record_id r) {
  record& x = records_[r];
  if (x.state == record_state::free) return;
  by_hash_.erase(x.key.hash);
  if (options_.journal && x.state == record_state::present) options_.journal->removed(x.key.hash);
  pins_.unpin(r);
  x.state = record_state::free;
  x.used = false;
}

std::optional<record_id> block_file::claim(const block_key& key) {
  TROUPE_ASSERT(key.tokens.size() == options_.block_tokens);
  if (by_hash_.contains(key.hash)) return std::nullopt;
  // Two rounds: the first may find that all were used.
  for (std::size_t step = 0; step < 2 * records_.size(); ++step) {
    const record_id r = hand_;
    record& x = records_[r];
    hand_ = static_cast<record_id>((hand_ + 1) % records_.size());
    if (x.holds > 0 || pins_.pinned(r) || x.state == record_state::writing) continue;
    if (std::exchange(x.used, false)) continue;
    if (x.state == record_state::present) ++counters_.replaced;
    forget(r);
    x.state = record_state::writing;
    ++writing_;
    x.key = key;
    x.sequence = next_sequence_++;
    by_hash_.emplace(key.hash, r);
    return r;
  }
  return std::nullopt;
}

void block_file::written(record_id r, bool ok) {
  TROUPE_ASSERT(records_[r].state == record_state::writing);
  --writing_;
  if (!ok) return forget(r);
  records_[r].state = record_state::present;
  if (options_.journal) options_.journal->stored(records_[r].key.hash);
  ++counters_.written;
}

void block_file::hold(record_id r) {
  TROUPE_ASSERT(records_[r].state == record_state::present);
  ++records_[r].holds;
  records_[r].used = true;
}

bool block_file::unhold(record_id r, bool ok) {
  record& x = records_[r];
  TROUPE_ASSERT(x.holds > 0);
  --x.holds;
  if (ok || x.state != record_state::present) return false;
  forget(r);
  ++counters_.forgotten;
  return true;
}

bool block_file::pin(const hash128_t& hash, bool pinned, time_point until) {
  const auto r = present(hash);
  return r && pins_.set(*r, pinned, records_.size(), until);
}

std::optional<record_id> block_file::present(const hash128_t& hash) const {
  const auto at = by_hash_.find(hash);
  if (at == by_hash_.end() || records_[at->second].state != record_state::present)
    return std::nullopt;
  return at->second;
}

const block_key* block_file::find_key(const hash128_t& hash) const {
  const auto r = present(hash);
  return r ? &records_[*r].key : nullptr;
}

// Of two blocks of a prompt the earlier one may have been written later, when it was given up and came back.
std::vector<record_id> block_file::by_age() const {
  std::vector<record_id> all;
  for (record_id r = 0; r < records_.size(); ++r)
    if (records_[r].state == record_state::present) all.push_back(r);
  std::ranges::sort(all, {}, [&](record_id r) { return records_[r].key.index; });
  std::vector<record_id> root(
      records_.size());  // the first block of each one's prompt that is here
  std::vector<std::uint64_t> latest(records_.size());  // by that one
  for (const record_id r : all) {
    const auto parent = present(records_[r].key.parent);
    root[r] = parent && records_[*parent].key.index < records_[r].key.index ? root[*parent] : r;
    latest[root[r]] = std::max(latest[root[r]], records_[r].sequence);
  }
  std::ranges::stable_sort(all, std::greater<>(), [&](record_id r) { return latest[root[r]]; });
  return all;
}

std::vector<record_id> block_file::clear() {
  std::vector<record_id> erased;
  for (record_id r = 0; r < records_.size(); ++r) {
    pins_.unpin(r);
    if (records_[r].holds > 0 || records_[r].state != record_state::present) continue;
    forget(r);
    erased.push_back(r);
  }
  return erased;
}

block_file_stats block_file::stats() const {
  block_file_stats s = counters_;
  s.records = static_cast<std::uint32_t>(records_.size());
  s.blocks = static_cast<std::uint32_t>(by_hash_.size()) - writing_;
  return s;
}

// -- I/O -----------------------------------------------------------------------------------------------------------------

result<void> block_file::write(record_id r, const block_key& key, std::uint64_t sequence,
                               std::span<const std::byte> payload) {
  TROUPE_ASSERT(payload.size() == options_.payload_bytes);
  TROUPE_CHECK(erase(r));
  std::byte* data = buffer_.get() + page;
  std::memcpy(data, payload.data(), payload.size());
  std::memset(data + payload.size(), 0, record_bytes_ - page - payload.size());
  // The payload alone, then the header: in this order.
  TROUPE_CHECK(write_at(offset_of(r) + page, {data, record_bytes_ - page}));
  encode_record(buffer_.get(), key, sequence, transport::payload_checksum(payload));
  return write_at(offset_of(r), {buffer_.get(), page});
}

std::vector<result<void>> block_file::read_many(std::span<const read_piece> pieces) {
  std::vector<result<void>> outcomes(pieces.size());
  std::vector<std::uint64_t> offsets;
  for (const auto& p : pieces) offsets.push_back(offset_of(p.record));
  reader_->read(offsets, [&](std::size_t i, result<std::span<const std::byte>> bytes) {
    outcomes[i] = bytes ? take_payload(*bytes, pieces[i].hash, pieces[i].payload)
                        : result<void>(tl::make_unexpected(bytes.error()));
  });
  return outcomes;
}

result<void> block_file::take_payload(std::span<const std::byte> bytes, const hash128_t& hash,
                                      std::span<std::byte> payload) const {
  TROUPE_ASSERT(payload.size() == options_.payload_bytes);
  const auto found = decode_record(bytes.data(), options_.block_tokens);
  if (!found || found->key.hash != hash)
    return fail(ec::corrupt_file, "a record is not the block that it should be");
  const auto data = bytes.subspan(page, payload.size());
  if (transport::payload_checksum(data) != found->payload_sum)
    return fail(ec::corrupt_file, "a block's bytes differ from those that were written");
  std::memcpy(payload.data(), data.data(), data.size());
  return {};
}

result<void> block_file::erase(record_id r) {
  std::memset(buffer_.get(), 0, page);
  return write_at(offset_of(r), {buffer_.get(), page});
}

// REQUIRES: aligned as O_DIRECT wants it.
result<void> block_file::write_at(std::uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const auto n = ::pwrite(descriptor_, data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return failed("writing");
    offset += static_cast<std::uint64_t>(n);
    data = data.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace troupe::engine
