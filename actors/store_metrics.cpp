#include "actors/store_metrics.hpp"

namespace troupe::actors {

store_metrics::store_metrics(const std::string& node)
    : fabric_metrics({{"node", node}, {"role", "kv-store"}}),
      offered_(counter("troupe_store_offered_blocks_total", "Blocks that nodes offered")),
      stored_(counter("troupe_store_stored_blocks_total", "Blocks that were pulled and verified")),
      failed_(counter("troupe_store_failed_blocks_total",
                      "Offered blocks that were gone, or whose fence did not match")),
      stored_bytes_(counter("troupe_store_stored_bytes_total", "Bytes pulled from nodes")),
      not_admitted_(counter("troupe_store_not_admitted_blocks_total",
                            "Offered blocks that were worth less than all that was kept")),
      queried_tokens_(
          counter("troupe_store_queried_tokens_total", "Prompt tokens that readers looked up")),
      expired_(counter("troupe_store_expired_blocks_total", "Blocks that reached their TTL")),
      memory_(tier_of("memory")),
      disk_(tier_of("disk")),
      disk_failures_(counter("troupe_store_disk_write_failures_total",
                             "Writes that the system refused, as when the disk is full")),
      disk_corrupt_(counter("troupe_store_disk_corrupt_blocks_total",
                            "Blocks whose bytes on the disk were not those written")),
      disk_read_seconds_(histogram("troupe_store_disk_read_duration_seconds",
                                   "From asking the disk for up to 8 blocks until they were there",
                                   {.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5})),
      leased_(gauge("troupe_store_leased_blocks", "Blocks that readers hold")),
      oldest_(gauge("troupe_store_oldest_use_seconds",
                    "Age of the last use of the block that was not used for longest")),
      pinned_(gauge("troupe_store_pinned_blocks", "Blocks in memory that an operator pinned")),
      leases_expired_(counter("troupe_store_leases_expired_total",
                              "Readers' leases that ended without a release")),
      copies_(counter("troupe_store_copies_total",
                      "Prompts copied to another store because they were asked for often")),
      taken_(handed_on_counter("taken")),
      had_(handed_on_counter("had")),
      refused_(handed_on_counter("refused")),
      dropped_(handed_on_counter("dropped")) {}

store_metrics::tier store_metrics::tier_of(const std::string& name) {
  const prometheus::Labels labels{{"tier", name}};
  return {counter("troupe_store_hit_tokens_total", "Prompt tokens found", labels),
          counter("troupe_store_hit_bytes_total", "Bytes of the blocks found", labels),
          counter("troupe_store_evictions_total", "Blocks given up for others", labels),
          gauge("troupe_store_blocks", "Blocks that are kept", labels),
          gauge("troupe_store_bytes", "Bytes of the blocks that are kept", labels)};
}

void store_metrics::tier::found(std::uint64_t tokens, std::uint64_t token_bytes) {
  hit_tokens.Increment(static_cast<double>(tokens));
  hit_bytes.Increment(static_cast<double>(tokens * token_bytes));
}

void store_metrics::tier::holds(std::uint64_t blocks_now, std::uint64_t block_bytes) {
  blocks.Set(static_cast<double>(blocks_now));
  bytes.Set(static_cast<double>(blocks_now * block_bytes));
}

prometheus::Counter& store_metrics::handed_on_counter(const std::string& outcome) {
  return counter("troupe_store_handed_on_blocks_total",
                 "Blocks offered to the store that should have them, when one leaves or comes",
                 {{"outcome", outcome}});
}

void store_metrics::handed_on(std::size_t taken, std::size_t had, std::size_t refused,
                              std::size_t dropped) {
  taken_.Increment(static_cast<double>(taken));
  had_.Increment(static_cast<double>(had));
  refused_.Increment(static_cast<double>(refused));
  dropped_.Increment(static_cast<double>(dropped));
}

void store_metrics::stored(std::size_t blocks, std::size_t failed, std::uint64_t bytes) {
  stored_.Increment(static_cast<double>(blocks));
  failed_.Increment(static_cast<double>(failed));
  stored_bytes_.Increment(static_cast<double>(bytes));
}

void store_metrics::looked_up(std::uint64_t tokens, std::uint64_t in_memory, std::uint64_t on_disk,
                              std::uint64_t token_bytes) {
  queried_tokens_.Increment(static_cast<double>(tokens));
  memory_.found(in_memory, token_bytes);
  disk_.found(on_disk, token_bytes);
}

void store_metrics::update_disk(const engine::block_file_stats& now, std::uint64_t record_bytes) {
  std::lock_guard lock(mutex_);
  advance(disk_.evictions, last_disk_.replaced, now.replaced);
  advance(disk_corrupt_, last_disk_.forgotten, now.forgotten);
  last_disk_ = now;
  disk_.holds(now.blocks, record_bytes);
}

void store_metrics::update(const engine::block_store_stats& now, std::uint64_t block_bytes,
                           std::chrono::seconds oldest) {
  std::lock_guard lock(mutex_);
  blocks_ = now.blocks;
  advance(not_admitted_, last_.not_admitted, now.not_admitted);
  advance(memory_.evictions, last_.evictions, now.evictions);
  advance(expired_, last_.expired, now.expired);
  last_ = now;
  memory_.holds(now.blocks, block_bytes);
  leased_.Set(now.leased);
  pinned_.Set(now.pinned);
  oldest_.Set(static_cast<double>(oldest.count()));
}

}  // namespace troupe::actors
