// What a KV store counts. `tier` is where a block was: memory or disk. Any thread.
#pragma once

#include <atomic>

#include "actors/metrics.hpp"
#include "engine/kv_store/block_file.hpp"
#include "engine/kv_store/block_store.hpp"

namespace troupe::actors {

class store_metrics : public fabric_metrics {
 public:
  explicit store_metrics(const std::string& node);
  void offered(std::size_t blocks) { offered_.Increment(static_cast<double>(blocks)); }
  void stored(std::size_t blocks, std::size_t failed, std::uint64_t bytes);
  void looked_up(std::uint64_t tokens, std::uint64_t in_memory, std::uint64_t on_disk,
                 std::uint64_t token_bytes);
  void disk_read(double seconds) { disk_read_seconds_.Observe(seconds); }
  void copied() { copies_.Increment(); }
  void leases_expired(std::size_t n) { leases_expired_.Increment(static_cast<double>(n)); }
  // Blocks that this store offered to another that should have them, by what came of it.
  void handed_on(std::size_t taken, std::size_t had, std::size_t refused, std::size_t dropped);
  void disk_write_failed() { disk_failures_.Increment(); }
  void update_disk(const engine::block_file_stats& now, std::uint64_t record_bytes);
  void update(const engine::block_store_stats& now, std::uint64_t block_bytes,
              std::chrono::seconds oldest);
  void readers(std::size_t now) { readers_ = static_cast<std::uint32_t>(now); }
  std::uint32_t readers() const { return readers_; }
  std::uint32_t blocks() const { return blocks_; }  // in memory, as of the last update

 private:
  struct tier {  // where blocks are
    prometheus::Counter &hit_tokens, &hit_bytes, &evictions;
    prometheus::Gauge &blocks, &bytes;
    void found(std::uint64_t tokens, std::uint64_t token_bytes);
    void holds(std::uint64_t blocks_now, std::uint64_t block_bytes);
  };
  tier tier_of(const std::string& name);
  prometheus::Counter& handed_on_counter(const std::string& outcome);

  std::atomic<std::uint32_t> blocks_{0}, readers_{0};
  std::mutex mutex_;
  engine::block_store_stats last_;
  engine::block_file_stats last_disk_;
  prometheus::Counter &offered_, &stored_, &failed_, &stored_bytes_, &not_admitted_;
  prometheus::Counter &queried_tokens_, &expired_;
  tier memory_, disk_;
  prometheus::Counter &disk_failures_, &disk_corrupt_;
  prometheus::Histogram& disk_read_seconds_;
  prometheus::Gauge &leased_, &oldest_, &pinned_;
  prometheus::Counter& leases_expired_;
  prometheus::Counter &copies_, &taken_, &had_, &refused_, &dropped_;
};

}  // namespace troupe::actors
