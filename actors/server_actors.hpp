// The actors of a server process: directory, router and gateway, wired to each other. The product's server
// (cluster.cpp) and the simulator start the same ones.
#pragma once

#include <caf/actor_system.hpp>
#include <memory>

#include "actors/connect.hpp"
#include "actors/gateway.hpp"
#include "actors/membership_table.hpp"

namespace troupe::actors {

struct server_actors {
  directory_actor directory;
  router_actor router;
  gateway_actor gateway;
  std::shared_ptr<gateway_context> context;
};

server_actors spawn_server(caf::actor_system& system, const membership_options& members,
                           const gateway_options& options, std::shared_ptr<local_nodes> neighbours,
                           const connector_actor& connector);

}  // namespace troupe::actors
