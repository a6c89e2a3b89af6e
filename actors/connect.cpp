#include "actors/connect.hpp"

#include <caf/io/middleman.hpp>

namespace troupe::actors {

connector_actor product_connector(caf::actor_system& system) {
  return system.middleman().actor_handle();
}

}  // namespace troupe::actors
