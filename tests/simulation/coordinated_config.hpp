// Actors under CAF's test coordinator: virtual time, one thread, and no message moves before the test says so.
#pragma once

#include <caf/actor_system_config.hpp>

#include "actors/interfaces.hpp"

namespace troupe::simulation {

// Without the middleman: under this scheduler its broker would outlive the system.
struct coordinated_config : caf::actor_system_config {
  coordinated_config() {
    add_message_types<caf::id_block::troupe>();
    set("scheduler.policy", caf::atom("testing"));
  }
};

}  // namespace troupe::simulation
