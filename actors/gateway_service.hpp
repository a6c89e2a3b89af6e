// generation_service over a gateway actor, in this process or far away: one actor that turns messages into calls of
// sinks, and a board with the latest membership.
#pragma once

#include <caf/actor_system.hpp>
#include <memory>

#include "actors/interfaces.hpp"
#include "actors/service.hpp"

namespace troupe::actors {

std::unique_ptr<generation_service> make_gateway_service(caf::actor_system& system,
                                                         const gateway_actor& gateway);

}  // namespace troupe::actors
