#include "actors/store_metrics.hpp"

namespace troupe::actors {

store_metrics::store_metrics(const std::string& node)
    : process_metrics({{"node", node}, {"role", "kv-store"}}),
      offered_(counter("troupe_store_offered_blocks_total", "Blocks that nodes offered")),
      stored_(counter("troupe_store_stored_blocks_total", "Blocks that were pulled and verified")),
      failed_(counter("troupe_store_failed_blocks_total",
                      "Offered blocks that were gone, or whose fence did not match")),
      stored_bytes_(counter("troupe_store_stored_bytes_total", "Bytes pulled from nodes")),
      not_admitted_(counter("troupe_store_not_admitted_blocks_total",
                            "Offered blocks that were worth less than all that was kept")),
      queried_tokens_(
          counter("troupe_store_queried_tokens_total", "Prompt tokens that readers looked up")),
      hit_tokens_(
          counter("troupe_store_hit_tokens_total", "Prompt tokens found", {{"tier", "memory"}})),
      hit_bytes_(counter("troupe_store_hit_bytes_total", "Bytes of the blocks found",
                         {{"tier", "memory"}})),
      evictions_(counter("troupe_store_evictions_total", "Blocks given up for others",
                         {{"tier", "memory"}})),
      expired_(counter("troupe_store_expired_blocks_total", "Blocks that reached their TTL")),
      disk_hit_tokens_(
          counter("troupe_store_hit_tokens_total", "Prompt tokens found", {{"tier", "disk"}})),
      disk_hit_bytes_(
          counter("troupe_store_hit_bytes_total", "Bytes of the blocks found", {{"tier", "disk"}})),
      disk_evictions_(counter("troupe_store_evictions_total", "Blocks given up for others",
                              {{"tier", "disk"}})),
      disk_failures_(counter("troupe_store_disk_write_failures_total",
                             "Writes that the system refused, as when the disk is full")),
      disk_corrupt_(counter("troupe_store_disk_corrupt_blocks_total",
                            "Blocks whose bytes on the disk were not those written")),
      disk_blocks_(gauge("troupe_store_blocks", "Blocks that are kept", {{"tier", "disk"}})),
      disk_bytes_(
          gauge("troupe_store_bytes", "Bytes of the blocks that are kept", {{"tier", "disk"}})),
      disk_read_seconds_(histogram("troupe_store_disk_read_duration_seconds",
                                   "From asking the disk for up to 8 blocks until they were there",
                                   {.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5})),
      blocks_gauge_(gauge("troupe_store_blocks", "Blocks that are kept", {{"tier", "memory"}})),
      bytes_gauge_(
          gauge("troupe_store_bytes", "Bytes of the blocks that are kept", {{"tier", "memory"}})),
      leased_(gauge("troupe_store_leased_blocks", "Blocks that readers hold")),
      oldest_(gauge("troupe_store_oldest_use_seconds",
                    "Age of the last use of the block that was not used for longest")),
      pinned_(gauge("troupe_store_pinned_blocks", "Blocks in memory that an operator pinned")),
      copies_(counter("troupe_store_copies_total",
                      "Prompts copied to another store because they were asked for often")) {}

void store_metrics::stored(std::size_t blocks, std::size_t failed, std::uint64_t bytes) {
  stored_.Increment(static_cast<double>(blocks));
  failed_.Increment(static_cast<double>(failed));
  stored_bytes_.Increment(static_cast<double>(bytes));
}

void store_metrics::looked_up(std::uint64_t tokens, std::uint64_t in_memory, std::uint64_t on_disk,
                              std::uint64_t token_bytes) {
  queried_tokens_.Increment(static_cast<double>(tokens));
  hit_tokens_.Increment(static_cast<double>(in_memory));
  hit_bytes_.Increment(static_cast<double>(in_memory * token_bytes));
  disk_hit_tokens_.Increment(static_cast<double>(on_disk));
  disk_hit_bytes_.Increment(static_cast<double>(on_disk * token_bytes));
}

void store_metrics::update_disk(const engine::block_file_stats& now, std::uint64_t record_bytes) {
  std::lock_guard lock(mutex_);
  advance(disk_evictions_, last_disk_.replaced, now.replaced);
  advance(disk_corrupt_, last_disk_.forgotten, now.forgotten);
  last_disk_ = now;
  disk_blocks_.Set(now.blocks);
  disk_bytes_.Set(static_cast<double>(now.blocks * record_bytes));
}

void store_metrics::update(const engine::block_store_stats& now, std::uint64_t block_bytes,
                           std::chrono::seconds oldest) {
  std::lock_guard lock(mutex_);
  blocks_ = now.blocks;
  advance(not_admitted_, last_.not_admitted, now.not_admitted);
  advance(evictions_, last_.evictions, now.evictions);
  advance(expired_, last_.expired, now.expired);
  last_ = now;
  blocks_gauge_.Set(now.blocks);
  bytes_gauge_.Set(static_cast<double>(now.blocks * block_bytes));
  leased_.Set(now.leased);
  pinned_.Set(now.pinned);
  oldest_.Set(static_cast<double>(oldest.count()));
}

}  // namespace troupe::actors
