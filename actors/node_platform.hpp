// What a node takes from the process around it: a device, a fabric, a thread for its engine, a door for peers, a clock.
// The product's are here; the simulator (tests/simulation) gives its own, so that everything else of a node is the
// same code in both.
#pragma once

#include <caf/actor_system.hpp>
#include <functional>
#include <memory>
#include <optional>

#include "actors/cluster.hpp"
#include "actors/connect.hpp"
#include "actors/driver.hpp"
#include "actors/interfaces.hpp"
#include "transport/device_memory.hpp"
#include "transport/fabric.hpp"

namespace troupe::actors {

struct node_platform {
  std::function<result<std::unique_ptr<gpu::model_runner>>(
      std::shared_ptr<const model::loaded_model>, const gpu::runner_options&)>
      make_runner;
  // `network`: where its port listens, and the secret of who may read; `device`: whose memory holds the KV blocks; null:
  // the host's.
  std::function<result<std::unique_ptr<transport::fabric>>(
      incarnation self, const network_settings& network,
      std::shared_ptr<transport::device_memory> device, transport::event_sink)>
      make_fabric;
  std::function<std::unique_ptr<engine_driver>(std::unique_ptr<engine::engine>,
                                               engine_driver::hooks)>
      make_driver;
  std::function<std::unique_ptr<draft_driver>(std::unique_ptr<engine::draft_engine>,
                                              draft_driver::hooks)>
      make_draft_driver;
  // The port under which peers reach the actor of that role.
  std::function<result<std::uint16_t>(role, const caf::strong_actor_ptr&, const network_settings&)>
      publish;
  connector_actor connector;
  std::function<std::uint64_t()> new_incarnation;  // never 0, never one given before
  std::function<engine::time_point()> now;         // the clock that the engine is driven by
  std::function<engine::time_point()> pass_clock;  // engine_options::pass_clock
  // Of the blocks that a KV store keeps; empty: what every device of this build makes of the model.
  std::optional<gpu::kv_layout> store_layout;
  std::size_t touch_ahead = 0;  // bytes of host memory that are made before they are needed
};

node_platform product_platform(caf::actor_system& system);

}  // namespace troupe::actors
