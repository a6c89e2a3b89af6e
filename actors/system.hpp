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

// For publish: a port whose last owner died a moment ago can be had at once, one that is in use cannot.
inline constexpr bool reuse_address = true;

}  // namespace troupe::actors
