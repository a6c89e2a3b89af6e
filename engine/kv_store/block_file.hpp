// The KV store's second tier: blocks in one file, bounded in bytes, that survives the process.
//
// The file is a log that goes round: a header page, then equal records, written one after the other; at the end the
// writer begins anew and passes over records that were used since (second chance, as CLOCK). A record is a header page
// (hash, tokens, sequence number, checksum of the payload, checksum of itself) and the payload of a block:
//
//   | file header 4096 | record 0: header 4096, payload padded to 4096 | record 1 | ...
//
// Writing a record zeroes its header, writes the payload, then the header, so that a process killed at any byte leaves
// records that are whole, or that are seen not to be. What the system lost beyond that (power) the payload's checksum
// shows, which every read verifies. On open the record headers are read again; of two records with one hash the later
// one counts.
//
// The file belongs to one KV identity and one process (flock). O_DIRECT where the file system has it; reads go through
// io_uring where the kernel has it (record_reader).
// Threads: write, read, read_many and erase do nothing but I/O and may run on a thread of their own, one at a time, for records
// that were claimed or held before; all else on the owner's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"
#include "engine/kv_store/block_store.hpp"
#include "engine/kv_store/record_reader.hpp"

namespace troupe::engine {

struct block_file_options {
  std::size_t payload_bytes = 0;
  std::uint32_t block_tokens = 16;
  hash128_t kv_identity;
  std::string identity_text;  // for people
  std::uint64_t max_bytes = 0;
  std::shared_ptr<prefix_journal> journal{};  // hears what comes and goes; may be null
  bool use_io_uring = true;                   // where it is to be had
};

using record_id = std::uint32_t;

struct block_file_stats {
  std::uint32_t records = 0, blocks = 0;  // blocks that are whole
  std::uint64_t written = 0, replaced = 0, forgotten = 0, recovered = 0;
  std::uint64_t unreadable = 0;  // records that the disk did not give when the file was opened
};

class block_file {
 public:
  // ec::identity_mismatch: the file holds another model's blocks (both are named); ec::corrupt_file: it is no such file;
  // ec::address_in_use: another process has it; ec::io_error.
  static result<std::unique_ptr<block_file>> open(const std::filesystem::path& path,
                                                  const block_file_options& options);
  ~block_file();
  block_file(const block_file&) = delete;
  block_file& operator=(const block_file&) = delete;

  // The block, if it is here with these tokens behind this parent.
  std::optional<record_id> find(const hash128_t& hash, const hash128_t& parent,
                                std::span<const token_id> tokens) const;
  const block_key& key(record_id r) const { return records_[r].key; }

  // A record to write this block to; nullopt: every record is held. It can be found once written(ok) was called.
  std::optional<record_id> claim(const block_key& key);
  void written(record_id r, bool ok);
  // Keeps a record from being replaced while it is read.
  void hold(record_id r);
  // Not ok: what was read was not what was written, so it is forgotten. True: its header must be erased, or it comes back
  // when the file is opened again.
  [[nodiscard]] bool unhold(record_id r, bool ok);
  // Keeps a block from being replaced for a while. False: it is not here, or half of all records are pinned already.
  bool pin(const hash128_t& hash, bool pinned, time_point until);
  void expire(time_point now) { pins_.expire(now); }
  const block_key* find_key(const hash128_t& hash) const;  // null: it is not here
  // What is present, prompts that were written lately first; a block comes after the one it follows.
  std::vector<record_id> by_age() const;
  std::optional<record_id> present(const hash128_t& hash) const;
  // nullopt: it is not pinned
  std::optional<time_point> pinned_until(record_id r) const { return pins_.until(r); }
  // Forgets all that is not held; returns the records whose headers must be erased.
  std::vector<record_id> clear();

  // -- I/O -----------------------------------------------------------------------------------------------------------
  result<void> write(record_id r, const block_key& key, std::uint64_t sequence,
                     std::span<const std::byte> payload);
  struct read_piece {
    record_id record = 0;
    hash128_t hash;
    std::span<std::byte> payload;
  };
  // Several at a time; result i is that of piece i. ec::corrupt_file: the record is not this block any more, or its bytes
  // differ from those written.
  std::vector<result<void>> read_many(std::span<const read_piece> pieces);
  result<void> erase(record_id r);

  std::uint64_t sequence(record_id r) const { return records_[r].sequence; }
  std::uint64_t record_bytes() const { return record_bytes_; }
  bool direct() const { return direct_; }
  std::string reads_by() const { return reader_->description(); }
  block_file_stats stats() const;

 private:
  enum class record_state : std::uint8_t { free, writing, present };
  struct record {
    record_state state = record_state::free;
    bool used = false;  // since the writer came by
    std::uint32_t holds = 0;
    std::uint64_t sequence = 0;
    block_key key;
  };

  block_file(int descriptor, bool direct, const block_file_options& options);
  result<void> write_at(std::uint64_t offset, std::span<const std::byte> data);
  result<std::uint64_t> check_or_make_header(std::uint64_t size);  // the size from now on
  result<void> write_file_header();
  result<void> recover(std::uint64_t size);
  std::uint64_t offset_of(record_id r) const;
  result<void> take_payload(std::span<const std::byte> bytes, const hash128_t& hash,
                            std::span<std::byte> payload) const;
  void forget(record_id r);

  const int descriptor_;
  const bool direct_;
  const block_file_options options_;
  const std::uint64_t record_bytes_;
  const page_buffer buffer_;  // [record_bytes_]
  std::unique_ptr<record_reader> reader_;
  std::vector<record> records_;
  std::unordered_map<hash128_t, record_id> by_hash_;
  record_id hand_ = 0;
  std::uint32_t writing_ = 0;  // records
  pin_table pins_;
  std::uint64_t next_sequence_ = 1;
  block_file_stats counters_;
};

}  // namespace troupe::engine
