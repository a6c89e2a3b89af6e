// CAF's configuration for every Troupe process: message types, scheduler, heartbeats, and who may connect.
#pragma once

#include <caf/actor_system_config.hpp>
#include <string>

#include "actors/cluster.hpp"

namespace troupe::actors {

class system_config : public caf::actor_system_config {
 public:
  explicit system_config(const network_settings& network);
};

// ec::invalid_argument: a listener that others can reach needs a secret or --insecure-cluster.
result<void> check(const network_settings& network);

}  // namespace troupe::actors
