// Pulls blocks from peers into this node's arena and verifies their fences: the seam between transport and engine.
//
// Threads: every function from any thread; `done` is called on the fabric's progress thread, after which nothing of
// that pull can write into the blocks any more.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "engine/engine.hpp"
#include "gpu/kv_layout.hpp"
#include "transport/fabric.hpp"
#include "transport/page_toucher.hpp"

namespace troupe::actors {

struct pull_outcome {
  std::vector<bool> ok;  // one a piece: it arrived and its fence matched
  std::uint64_t bytes = 0;
  std::chrono::nanoseconds duration{};
  transport::path via = transport::path::none;
  error failure;  // code none if every piece is ok
};

class block_puller {
 public:
  using completion = std::function<void(pull_outcome&&)>;

  // The arena is made later than the fabric, whose sink this object provides.
  block_puller(const gpu::kv_layout& layout, std::uint64_t fence_layout);
  transport::event_sink sink();
  std::function<void(incarnation, const error&)> on_peer_down;  // set before the fabric starts
  void attach(transport::fabric& fabric, const transport::region& arena);

  // From the first call of used() on, memory is made ahead of its use (transport/page_toucher.hpp): at most so many bytes.
  // Not for device memory.
  void touch_ahead(std::size_t bytes) { touch_ahead_ = bytes; }
  // Blocks of the arena, from its beginning on, that are or were in use.
  void used(std::uint64_t blocks);
  void stop_touching();  // before the arena goes

  result<void> connect(incarnation peer, std::string_view address) {
    return fabric_->connect(peer, address);
  }
  void disconnect(incarnation peer) { fabric_->disconnect(peer); }
  transport::fabric_stats stats() const { return fabric_->stats(); }
  transport::path path_to(incarnation peer) const;
  // Whether a pull would first wait for the peer's memory to be opened: of GPUs that takes up to a second (transport/README.md).
  bool would_wait_for(incarnation peer) const;
  std::uint64_t bytes_per_second() const {
    return bytes_per_second_;
  }  // smoothed; 0 before the first pull

  std::uint64_t block_bytes() const { return layout_.payload_bytes() + gpu::fence_bytes; }

  // `done` is called exactly once, also when the pull cannot start (then from within this call).
  void pull(incarnation peer, engine::pull_plan plan, transport::time_point deadline,
            completion done);

 private:
  struct running {
    incarnation peer{};
    std::vector<engine::pull_piece> pieces;
    completion done;
  };
  void finish(transport::pull_done&& d);
  std::span<const std::byte> block(block_id id) const;

  const gpu::kv_layout layout_;
  const std::uint64_t fence_layout_;
  transport::fabric* fabric_ = nullptr;
  transport::region arena_;
  std::atomic<std::uint64_t> bytes_per_second_{0};
  mutable std::mutex mutex_;
  std::uint64_t next_op_ = 1;
  std::map<transport::op_id, running> running_;
  std::map<incarnation, transport::path> paths_;
  std::size_t touch_ahead_ = 0;  // 0: never, or no more
  std::unique_ptr<transport::page_toucher> toucher_;
};

}  // namespace troupe::actors
