// The decode actor's dealings with prefill nodes.
#include "actors/decode.hpp"
#include "base/log.hpp"

namespace troupe::actors {

void decode_state::ask_prefill(std::uint64_t id) {
  auto it = entries.find(id);
  if (it == entries.end() || !it->second.remote) return;
  auto& part = *it->second.remote;
  auto* p = peers.find(part.peer);
  if (p == nullptr) return end_remote(id, true, "prefill node is not reachable");
  if (!p->actor) return p->waiting.push_back(id);
  part.asked = true;
  part.last_progress = self->clock().now();
  self->send(p->actor, std::move(part.message));
}

void decode_state::on_peer_lost(std::uint64_t start, const peer_table::peer& lost,
                                const std::string& why) {
  spdlog::warn("prefill node {} is lost: {}", lost.info.name, why);
  std::vector<std::uint64_t> affected;
  for (auto& [id, e] : entries) {
    if (!e.remote || e.remote->peer != start) continue;
    affected.push_back(id);
    // Where only the transport is lost its actor hears this and need not wait for the lease.
    if (lost.actor && e.remote->asked) self->send(lost.actor, release_request{id, e.try_number});
  }
  for (auto id : affected) end_remote(id, true, why);
  node->puller->disconnect(incarnation{start});
}

void decode_state::on_blocks(const blocks_ready& m) {
  auto it = entries.find(m.id);
  if (it == entries.end() || it->second.try_number != m.try_number || !it->second.remote) return;
  auto& part = *it->second.remote;
  part.last_progress = self->clock().now();
  part.all_announced = part.all_announced || m.last;
  ++part.pulls_running;

  std::vector<engine::block_descriptor> blocks;
  for (const auto& b : m.blocks) blocks.push_back({b.block, b.generation, b.valid_tokens});
  const pull_happened happened{m.id, m.try_number, 0, 0, error{ec::none, {}}};
  auto services = node;
  auto start = [me = decode_actor(self), services, blocks, happened, peer = incarnation{part.peer},
                first = m.first_block](engine::engine& eng, engine::time_point now) {
    auto plan = eng.start_pull(request_id{happened.id}, happened.try_number, first, blocks);
    if (plan.pieces.empty())
      return caf::anon_send(me, happened);  // cached here, or the request is gone
    const auto id = plan.id;
    services->puller->pull(
        peer, std::move(plan), now + services->options.pull_timeout, [=](pull_outcome&& out) {
          services->metrics->on_pull(out);
          pull_happened h = happened;
          h.blocks = static_cast<std::uint32_t>(out.ok.size());
          for (bool ok : out.ok) h.failed_blocks += ok ? 0 : 1;
          h.failure = out.failure;
          // The actor first when all is well: the engine may finish the request with this pull, and its
          // end must find the blocks counted. After a failure the engine first, which then keeps what arrived.
          const bool complete = h.failed_blocks == 0;
          if (complete) caf::anon_send(me, h);
          services->loop->post_completion([id, ok = out.ok, bytes = out.bytes, busy = out.duration](
                                              engine::engine& e, engine::time_point t) {
            e.pull_ended(id, ok, bytes, busy, t);
          });
          if (!complete) caf::anon_send(me, std::move(h));
        });
  };
  post(m.id, std::move(start));
}

void decode_state::on_first_token(const first_token& m) {
  auto it = entries.find(m.id);
  if (it == entries.end() || it->second.try_number != m.try_number || !it->second.remote) return;
  it->second.remote->last_progress = self->clock().now();
  post(m.id, [id = m.id, try_number = m.try_number, token = from_wire(m.token)](
                 engine::engine& e, engine::time_point now) {
    e.remote_first_token(request_id{id}, try_number, token, now);
  });
}

void decode_state::on_pull(const pull_happened& m) {
  auto it = entries.find(m.id);
  if (it == entries.end() || it->second.try_number != m.try_number) return;
  auto& e = it->second;
  e.trace.blocks_pulled += m.blocks - m.failed_blocks;
  if (!e.remote) return;
  auto& part = *e.remote;
  part.last_progress = self->clock().now();
  --part.pulls_running;
  if (m.blocks > 0)
    e.trace.transfer_path =
        std::string(transport::to_string(node->puller->path_to(incarnation{part.peer})));
  if (m.failed_blocks > 0) {
    spdlog::warn("{} of {} blocks from {} were not usable: {}", m.failed_blocks, m.blocks,
                 e.trace.prefill_node, to_string(m.failure));
    return end_remote(m.id, true, to_string(m.failure));
  }
  // The first token was sent before the last announcement, so nothing more is to come.
  if (part.all_announced && part.pulls_running == 0) end_remote(m.id, false, "complete");
}

void decode_state::end_remote(std::uint64_t id, bool compute_rest, const std::string& why) {
  auto it = entries.find(id);
  if (it == entries.end() || !it->second.remote) return;
  const auto part = std::move(*it->second.remote);
  it->second.remote.reset();
  // A pull under way may still read there: its fence would fail after the release, and its blocks be computed here.
  if (const auto actor = peers.actor_of(part.peer); actor && part.asked)
    self->send(actor, release_request{id, it->second.try_number});
  if (!compute_rest) return;
  spdlog::info("request {:x}: the rest of the prompt is computed here: {}", id, why);
  post(id, [id, try_number = it->second.try_number](engine::engine& e, engine::time_point now) {
    e.remote_failed(request_id{id}, try_number, now);
  });
}

void decode_state::check_silence() {
  const auto now = self->clock().now();
  std::vector<std::uint64_t> silent;
  for (auto& [id, e] : entries)
    if (e.remote && now - e.remote->last_progress > node->options.prefill_silence)
      silent.push_back(id);
  for (auto id : silent) end_remote(id, true, "the prefill node is silent");
}

}  // namespace troupe::actors
