// CAF's configuration for every Troupe process: message types, scheduler, heartbeats, and who may connect.
#pragma once

#include <caf/actor_system_config.hpp>
#include <memory>

#include "actors/cluster.hpp"
#include "actors/name_resolver.hpp"
#include "actors/tls.hpp"

namespace troupe::actors {

class system_config : public caf::actor_system_config {
 public:
  explicit system_config(const network_settings& network,
                         name_resolver::lookup_function names_from = name_resolver::ask_system);

  // Of the process. Here because it must outlive the system, whose actors may be waiting for a name when it ends.
  const std::unique_ptr<name_resolver> names;
  // What connections between processes prove; null without a secret.
  const std::shared_ptr<const tls_key> key;
};

// For publish: a port whose last owner died a moment ago can be had at once, one that is in use cannot.
inline constexpr bool reuse_address = true;

}  // namespace troupe::actors
