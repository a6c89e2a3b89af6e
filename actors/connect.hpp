// Connects to a published actor without blocking: straight to its host and port, never through another node, since
// handles that came by way of a hub hear no DOWN (platform notes, D5).
#pragma once

#include <caf/actor_cast.hpp>
#include <caf/actor_system.hpp>
#include <caf/io/middleman.hpp>
#include <set>
#include <string>

#include "actors/interfaces.hpp"
#include "actors/node_services.hpp"

namespace troupe::actors {

// Calls `ok(Handle)` or `failed(error)` on the actor `self`, always later, within `timeout`.
template <class Handle, class Self, class Ok, class Failed>
void connect_to(Self* self, const std::string& host, std::uint16_t port,
                std::chrono::milliseconds timeout, Ok ok, Failed failed) {
  const std::string where = host + ":" + std::to_string(port);
  self->request(self->system().middleman().actor_handle(), timeout, caf::connect_atom_v, host, port)
      .then(
          [=](const caf::node_id&, const caf::strong_actor_ptr& ptr,
              const std::set<std::string>& interface) mutable {
            if (!ptr || !self->system().template assignable<Handle>(interface))
              failed(error{ec::identity_mismatch,
                           where + " is not a Troupe node of the expected role and version"});
            else
              ok(caf::actor_cast<Handle>(ptr));
          },
          [=](const caf::error&) mutable {
            failed(error{ec::peer_lost, "cannot connect to " + where + ": is the node running?"});
          });
}

}  // namespace troupe::actors
