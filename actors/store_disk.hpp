// The thread that moves a KV store's blocks between its arena and its file. Reads go before writes; the queue of writes
// is bounded, and a block that finds it full is simply not kept on the disk.
//
// Threads: load, save and erase from the store's actor; `done` is called on this thread and must not block. A load's
// blocks are the store's to leave alone until then. A save's may be reused at any time: what is written is a copy whose
// fence was verified.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/kv_store/block_file.hpp"
#include "transport/fence.hpp"

namespace troupe::actors {

class store_disk {
 public:
  using load_piece = engine::block_file::read_piece;
  struct save_piece {
    engine::record_id record = 0;
    engine::block_key key;
    std::uint64_t sequence = 0;
    std::span<const std::byte> block;  // payload and fence
    transport::block_tag expected;
  };
  // ok[i]: piece i is where it should be. Of a save empty: the system refused, as when the disk is full.
  using completion = std::function<void(std::uint64_t job, std::vector<bool> ok)>;

  store_disk(engine::block_file& file, completion done);
  ~store_disk();  // after the piece under way

  void load(std::uint64_t job, std::vector<load_piece> pieces);
  bool room_to_save() const;
  void save(std::uint64_t job, save_piece piece);
  void erase(std::vector<engine::record_id> records);

 private:
  void run();
  void do_load(std::uint64_t job, const std::vector<load_piece>& pieces);
  void do_save(std::uint64_t job, const save_piece& piece);

  engine::block_file& file_;
  const completion done_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::pair<std::uint64_t, std::vector<load_piece>>> loads_;
  std::deque<std::pair<std::uint64_t, save_piece>> saves_;
  std::deque<engine::record_id> erasures_;
  bool stopping_ = false;
  std::vector<std::byte> copy_;
  std::thread thread_;
};

}  // namespace troupe::actors
