// The KV store's second tier: what is stored is written behind, what is found there is read before a reader pulls it.
#include "actors/kv_store.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr std::size_t load_batch = 8;  // blocks after which a reader may begin
constexpr auto rest_after_failure = std::chrono::seconds(30);

}  // namespace

void kv_store_state::open_disk() {
  if (!context->file) return;
  auto me = caf::actor_cast<caf::weak_actor_ptr>(kv_store_actor(self));
  disk = std::make_unique<store_disk>(*context->file, [me](std::uint64_t job,
                                                           std::vector<bool> ok) {
    if (auto strong = me.lock())
      caf::anon_send(caf::actor_cast<kv_store_actor>(strong), blocks_loaded{job, std::move(ok)});
  });
}

void kv_store_state::save(block_id b) {
  if (!disk || !disk->room_to_save()) return;
  const auto now = context->node->now();
  if (now < disk_rests_until) return;
  const auto& key = store->key(b);
  const auto record = context->file->claim(key);
  if (!record) return;
  const auto job = next_job++;
  jobs[job] = {0, 0, {*record}, now, 0, {}};
  disk->save(job, {*record, key, context->file->sequence(*record), bytes(b), tag(b)});
}

void kv_store_state::load(std::uint64_t number, const std::vector<engine::record_id>& records) {
  answer& a = answers.at(number);
  std::vector<store_disk::load_piece> pieces;
  disk_job job{number, 0, {}, context->node->now(), 0, {}};
  std::size_t next = 0;
  for (std::size_t i = 0; i < a.blocks.size(); ++i) {
    if (!a.ready[i]) {
      const auto record = records[next++];
      context->file->hold(record);
      transport::invalidate(bytes(a.blocks[i]));
      if (pieces.empty()) job.first = i;
      pieces.push_back({record, context->file->key(record).hash,
                        bytes(a.blocks[i]).first(context->sealed_bytes - transport::fence_bytes)});
      job.records.push_back(record);
    }
    const bool gap = a.ready[i] || i + 1 == a.blocks.size();
    if (pieces.empty() || !(gap || pieces.size() >= load_batch)) continue;
    ++a.loading;
    jobs[next_job] = std::exchange(job, disk_job{number, 0, {}, context->node->now(), 0, {}});
    disk->load(next_job++, std::exchange(pieces, {}));
  }
}

void kv_store_state::on_disk(const blocks_loaded& m) {
  auto it = jobs.find(m.id);
  if (it == jobs.end()) return;
  const disk_job job = std::move(it->second);
  jobs.erase(it);
  if (job.taker != 0) return on_read_for(job, m);
  const auto now = context->node->now();
  auto ok = [&m](std::size_t i) { return i < m.ok.size() && m.ok[i]; };
  if (job.answer == 0) {
    context->file->written(job.records[0], ok(0));
    if (m.ok.empty()) {  // the system refused: the disk may be full
      context->metrics->disk_write_failed();
      disk_rests_until = now + rest_after_failure;
    }
    return;
  }
  context->metrics->disk_read(std::chrono::duration<double>(now - job.started).count());
  answer& a = answers.at(job.answer);
  --a.loading;
  std::vector<block_id> loaded;
  for (std::size_t i = 0; i < job.records.size(); ++i) {
    const std::size_t at = job.first + i;
    const block_id b = a.blocks[at];
    if (context->file->unhold(job.records[i], ok(i))) disk->erase({job.records[i]});
    if (ok(i)) transport::seal(bytes(b), tag(b));
    store->filled(b, ok(i), now);
    a.ready[at] = ok(i);
    if (ok(i)) loaded.push_back(b);
    if (!ok(i)) a.limit = std::min(a.limit, std::max(at, a.sent));
  }
  // Only while the reader still wants them.
  auto at = leases.find({a.to.address(), a.request});
  if (at != leases.end() && at->second.lease == a.lease) store->lease(a.lease, loaded, now);
  send_ready(job.answer);
}

}  // namespace troupe::actors
