// Builds and owns what a node consists of: model, device, arena, fabric, engine loop, role actor, agent.
//
// Order of making: fabric and arena need the layout, the layout the device, the actor the services, the loop the actor.
// Order of ending is the reverse: the actor first, so that nothing new starts; the fabric last, so that every pull has
// ended before its memory goes.
#pragma once

#include <caf/actor_system.hpp>
#include <memory>
#include <optional>

#include "actors/cluster.hpp"
#include "actors/interfaces.hpp"
#include "actors/node_platform.hpp"
#include "actors/node_services.hpp"

namespace troupe::actors {

// Where a node joins: a directory of this process, or one at host:port.
struct join_target {
  directory_actor directory;
  std::string host;
  std::uint16_t port = 0;
};

std::uint64_t default_kv_memory();  // bytes: a fifth of what is free, at most 1 GiB

struct draft_context;

class node_runtime {
 public:
  static result<std::unique_ptr<node_runtime>> start(
      caf::actor_system& system, node_platform platform, const node_options& options,
      std::shared_ptr<const model::loaded_model> model, const join_target& target,
      std::shared_ptr<local_nodes> neighbours);
  ~node_runtime();

  const node_info& info() const { return services_->info; }
  std::shared_ptr<const node_services> services() const { return services_; }
  // The role actor first, then whoever works beside it.
  std::vector<caf::strong_actor_ptr> actors() const {
    std::vector<caf::strong_actor_ptr> all{role_, agent_};
    if (services_->store_client) all.push_back(services_->store_client);
    if (services_->draft_client) all.push_back(services_->draft_client);
    return all;
  }
  bool joined() const { return services_->state != node_state::joining; }
  void drain();
  bool drained() const { return drained_; }
  bool restart() const { return services_->restart; }
  std::optional<error> failure() const;

 private:
  node_runtime(caf::actor_system& system, node_platform platform)
      : system_(system), platform_(std::move(platform)) {}
  result<void> make_device(const node_options& options,
                           std::shared_ptr<const model::loaded_model> model);
  result<void> make_draft(const node_options& options, const model::loaded_model& model);
  result<void> make_store(const node_options& options, const model::loaded_model& model);
  result<void> make_engine(const node_options& options, const model::loaded_model& model);
  result<void> publish(const node_options& options);
  void tell_of_links(std::vector<caf::weak_actor_ptr> listeners);  // that were lost
  void start_agent(const join_target& target);
  void fail_with(const error& e);

  caf::actor_system& system_;
  const node_platform platform_;
  std::shared_ptr<node_services> services_ = std::make_shared<node_services>();
  std::unique_ptr<gpu::model_runner> runner_;
  std::unique_ptr<transport::fabric> fabric_;
  transport::region arena_;
  hash128_t kv_identity_;
  std::shared_ptr<draft_context> draft_;  // of a draft node
  caf::strong_actor_ptr role_, agent_;
  std::atomic<bool> drained_{false};
  mutable std::mutex mutex_;
  std::optional<error> failure_;
};

}  // namespace troupe::actors
