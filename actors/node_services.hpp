// What a role actor works with: the engine's loop, the puller, metrics, and who it is. Shared by the actor and the
// threads whose callbacks refer to it; lives until the last of them is gone.
#pragma once

#include <atomic>
#include <caf/actor_control_block.hpp>
#include <map>
#include <memory>
#include <mutex>

#include "actors/block_puller.hpp"
#include "actors/connect.hpp"
#include "actors/driver.hpp"
#include "actors/messages.hpp"
#include "actors/metrics.hpp"

namespace troupe::actors {

// Actors of this process by incarnation: a node talks to a neighbour in its own process without a socket.
class local_nodes {
 public:
  void add(std::uint64_t start, caf::strong_actor_ptr actor);
  caf::strong_actor_ptr find(std::uint64_t start) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::uint64_t, caf::strong_actor_ptr> actors_;
};

struct role_options {
  std::chrono::milliseconds connect_timeout{3000};
  std::chrono::milliseconds pull_timeout{5000};
  std::chrono::milliseconds prefill_silence{
      10'000};                       // no block and no token from prefill: compute the rest here
  std::uint32_t store_replicas = 1;  // KV stores that are offered a prompt
  // Each answer and each pull of a store is waited for so long, whatever computing would take; 0: as long as pays.
  std::chrono::milliseconds store_patience{0};
};

struct node_services {
  node_info info;
  role_options options;
  std::shared_ptr<local_nodes> neighbours;
  connector_actor connector;
  std::function<engine::time_point()> now;  // the clock that the engine is driven by
  std::unique_ptr<node_metrics> metrics;
  std::unique_ptr<block_puller> puller;
  std::unique_ptr<engine_driver> loop;  // last: its thread uses the others

  caf::strong_actor_ptr draft_client;     // of a decode node
  caf::strong_actor_ptr store_client;     // null in a store
  std::atomic<bool> store_ready{false};   // some KV store can be asked
  std::atomic<bool> drafts_ready{false};  // some draft can be asked: its client is told of requests
  std::shared_ptr<engine::prefix_journal> journal = std::make_shared<
      engine::prefix_journal>();             // of what it holds, for routers; null: nothing is kept
  std::function<node_load()> load_of_store;  // in a store, which has no engine

  std::atomic<node_state> state{node_state::joining};
  std::atomic<bool> restart{false};        // after a drain
  std::atomic<std::uint32_t> requests{0};  // that the role actor follows; drained when zero
  node_load load() const;
  prefix_events changes(const prefix_events_request& r) const;
  std::string metrics_text() const;  // as of the engine's last step
};

}  // namespace troupe::actors
