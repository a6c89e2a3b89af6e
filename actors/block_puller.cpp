#include "actors/block_puller.hpp"

#include <algorithm>

#include "base/mutation.hpp"
#include "transport/fence.hpp"

namespace troupe::actors {

block_puller::block_puller(const gpu::kv_layout& layout, std::uint64_t fence_layout)
    : layout_(layout), fence_layout_(fence_layout) {}

void block_puller::attach(transport::fabric& fabric, const transport::region& arena) {
  fabric_ = &fabric;
  arena_ = arena;
}

void block_puller::used(std::uint64_t blocks) {
  std::lock_guard lock(mutex_);
  if (touch_ahead_ == 0 || arena_.kind != transport::memory_kind::host) return;
  if (!toucher_)
    toucher_ = std::make_unique<transport::page_toucher>(arena_.span(),
                                                         std::min(touch_ahead_, arena_.bytes / 4));
  toucher_->used(blocks * layout_.block_bytes());
}

void block_puller::stop_touching() {
  std::lock_guard lock(mutex_);
  touch_ahead_ = 0;
  toucher_.reset();
}

transport::event_sink block_puller::sink() {
  return [this](transport::event&& e) {
    if (auto* done = std::get_if<transport::pull_done>(&e)) {
      finish(std::move(*done));
    } else if (auto* up = std::get_if<transport::peer_up>(&e)) {
      std::lock_guard lock(mutex_);
      paths_[up->peer] = up->via;
    } else if (auto* down = std::get_if<transport::peer_down>(&e)) {
      {
        std::lock_guard lock(mutex_);
        paths_.erase(down->peer);
      }
      if (on_peer_down) on_peer_down(down->peer, down->reason);
    }
  };
}

transport::path block_puller::path_to(incarnation peer) const {
  std::lock_guard lock(mutex_);
  auto it = paths_.find(peer);
  return it == paths_.end() ? transport::path::none : it->second;
}

bool block_puller::would_wait_for(incarnation peer) const {
  return arena_.kind == transport::memory_kind::cuda && path_to(peer) == transport::path::none;
}

std::span<const std::byte> block_puller::block(block_id id) const {
  return arena_.span().subspan(id * layout_.block_bytes(),
                               layout_.payload_bytes() + gpu::fence_bytes);
}

void block_puller::pull(incarnation peer, engine::pull_plan plan, transport::time_point deadline,
                        completion done) {
  transport::pull_request request;
  request.peer = peer;
  request.remote = transport::region_id{0};  // a node makes its arena first
  request.local = arena_.id;
  request.deadline = deadline;
  request.checksum = true;
  const std::uint64_t stride = layout_.block_bytes(),
                      bytes = layout_.payload_bytes() + gpu::fence_bytes;
  block_id highest = 0;
  for (const auto& p : plan.pieces) {
    request.pieces.push_back({p.remote * stride, p.local * stride, bytes});
    highest = std::max(highest, p.local);
  }
  used(std::uint64_t{highest} + 1);
  {
    std::lock_guard lock(mutex_);
    request.op = transport::op_id{next_op_++};
    running_.emplace(request.op, running{peer, plan.pieces, std::move(done)});
  }
  const auto op = request.op;
  if (auto accepted = fabric_->pull(std::move(request)); !accepted) {
    transport::pull_done d;
    d.op = op;
    d.peer = peer;
    d.outcome = tl::unexpected<error>(accepted.error());
    finish(std::move(d));
  }
}

void block_puller::finish(transport::pull_done&& d) {
  running r;
  {
    std::lock_guard lock(mutex_);
    auto it = running_.find(d.op);
    if (it == running_.end()) return;
    r = std::move(it->second);
    running_.erase(it);
  }
  pull_outcome out;
  out.ok.assign(r.pieces.size(), false);
  out.bytes = d.bytes;
  out.duration = d.duration;
  out.via = d.via;
  out.failure.code = ec::none;
  if (!d.outcome) {
    out.failure = d.outcome.error();
  } else {
    if (d.duration.count() > 0) {
      const auto now = static_cast<std::uint64_t>(static_cast<double>(d.bytes) * 1e9 /
                                                  static_cast<double>(d.duration.count()));
      const auto before = bytes_per_second_.load();
      bytes_per_second_ = before == 0 ? now : (before * 7 + now) / 8;
    }
    for (std::size_t i = 0; i < r.pieces.size(); ++i) {
      const auto& expected = r.pieces[i].expected;
      const transport::block_tag tag{r.peer, expected.generation, fence_layout_,
                                     expected.valid_tokens};
      auto verified = i < d.fences.size()  // the block is on a device
                          ? transport::verify_fence(d.fences[i], tag, d.checksums[i])
                          : i < d.checksums.size()
                                ? transport::verify(block(r.pieces[i].local), tag, d.checksums[i])
                                : transport::verify(block(r.pieces[i].local), tag);
      out.ok[i] = verified.has_value() || TROUPE_PLANTED(fence_off);
      if (!verified && out.failure.code == ec::none) out.failure = verified.error();
    }
  }
  r.done(std::move(out));
}

}  // namespace troupe::actors
