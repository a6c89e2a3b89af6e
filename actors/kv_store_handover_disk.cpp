// What a store that leaves has in its file only. When all that is in memory was handed on, the file's blocks are read into
// the arena, an offer's worth at a time, offered like the others, and given up for the next ones. A store whose supervisor
// starts it again keeps them in its file, to be found there.
#include <algorithm>

#include "actors/kv_store.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr std::size_t most_of_one_offer = 64;  // blocks

}  // namespace

// Several takers share the arena once it is filled from the file.
std::size_t kv_store_state::blocks_of_one_offer() const {
  if (!file_is_planned) return most_of_one_offer;
  const std::size_t share =
      context->options.num_blocks / std::max<std::size_t>(handovers.size(), 1);
  return std::clamp<std::size_t>(share, 1, most_of_one_offer);
}

// All of the file, for a block's prompt is known by the blocks before it; those that memory has were handed on.
void kv_store_state::hand_on_file() {
  if (!disk || file_is_planned || context->node->restart) return;
  file_is_planned = true;
  std::vector<owned_block> all;
  for (const block_id b : store->by_worth())
    if (const auto& k = store->key(b); !context->file->present(k.hash)) all.push_back({&k, {}});
  for (const auto r : context->file->by_age())
    all.push_back({&context->file->key(r), context->file->pinned_until(r)});
  plan_handovers(all, false, std::nullopt);
  for (auto& [to, h] : handovers) {
    std::erase_if(h.waiting,
                  [&](const hash128_t& hash) { return store->present(hash).has_value(); });
    spdlog::info("this store leaves: {} gets {} blocks of its file", other_stores.at(to).info.name,
                 h.waiting.size());
  }
  store->clear();
  hand_on();
}

// What finds no room waits for the next offer: readers hold what is here, or another taker's read brings it.
void kv_store_state::read_for(std::uint64_t to, const std::vector<engine::record_id>& records) {
  handover& h = handovers.at(to);
  disk_job job{0, 0, {}, context->node->now(), to, {}};
  std::vector<store_disk::load_piece> pieces;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const auto& hash = context->file->key(records[i]).hash;
    const auto block = store->reserve(context->file->key(records[i]), job.started, true);
    if (!block) {
      for (std::size_t k = records.size(); k-- > i;)
        h.waiting.push_front(context->file->key(records[k]).hash);
      break;
    }
    context->file->hold(records[i]);
    transport::invalidate(bytes(*block));
    pieces.push_back(
        {records[i], hash, bytes(*block).first(context->sealed_bytes - transport::fence_bytes)});
    job.records.push_back(records[i]);
    job.blocks.push_back(*block);
  }
  if (pieces.empty()) {
    if (!h.blocks.empty()) return send_offer(to);
    return end_offer(h, false);  // again with the next tick
  }
  h.offered = static_cast<std::uint32_t>(h.blocks.size() + pieces.size());
  h.reading = next_job++;
  jobs[h.reading] = std::move(job);
  disk->load(h.reading, std::move(pieces));
}

void kv_store_state::on_read_for(const disk_job& job, const blocks_loaded& m) {
  const auto now = context->node->now();
  const auto it = handovers.find(job.taker);
  const bool wanted = it != handovers.end() && it->second.reading == m.id;
  std::vector<block_id> loaded;
  for (std::size_t i = 0; i < job.records.size(); ++i) {
    const bool ok = i < m.ok.size() && m.ok[i];
    const block_id b = job.blocks[i];
    if (context->file->unhold(job.records[i], ok)) disk->erase({job.records[i]});
    if (ok) transport::seal(bytes(b), tag(b));
    store->filled(b, ok, now);
    if (!ok) continue;
    if (wanted)
      loaded.push_back(b);
    else
      store->drop(b);
  }
  context->metrics->disk_read(std::chrono::duration<double>(now - job.started).count());
  if (!wanted) return;
  handover& h = it->second;
  h.reading = 0;
  h.from_file = loaded;
  h.blocks.insert(h.blocks.end(), loaded.begin(), loaded.end());
  store->lease(h.lease, loaded, now);
  context->metrics->handed_on(0, 0, 0, h.offered - h.blocks.size());
  const auto s = other_stores.find(job.taker);
  if (h.blocks.empty() || s == other_stores.end() || !s->second.actor)
    return end_offer(h, false);  // goes on, or is given up, with the next tick
  send_offer(job.taker);
}

}  // namespace troupe::actors
