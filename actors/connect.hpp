// Connects to a published actor without blocking: straight to its host and port, never through another node, since
// handles that came by way of a hub hear no DOWN (platform notes, D5).
#pragma once

#include <caf/actor_cast.hpp>
#include <caf/actor_system.hpp>
#include <caf/blocking_actor.hpp>
#include <caf/expected.hpp>
#include <caf/replies_to.hpp>
#include <caf/typed_actor.hpp>
#include <set>
#include <string>

#include "base/result.hpp"

namespace troupe::actors {

// Who knows the way to other processes: in the product CAF's middleman behind an actor that asks it only for addresses
// at which somebody answers; or the simulator's network.
using connector_actor =
    caf::typed_actor<caf::replies_to<caf::connect_atom, std::string, std::uint16_t>::with<
        caf::node_id, caf::strong_actor_ptr, std::set<std::string>>>;
connector_actor product_connector(caf::actor_system& system);

// Lets other processes reach the actor; port 0: any free one. Gives the port.
caf::expected<std::uint16_t> publish(caf::actor_system& system, const caf::strong_actor_ptr& actor,
                                     const std::set<std::string>& interface,
                                     const std::string& host, std::uint16_t port);
template <class Handle>
caf::expected<std::uint16_t> publish(caf::actor_system& system, const Handle& actor,
                                     const std::string& host, std::uint16_t port) {
  return publish(system, caf::actor_cast<caf::strong_actor_ptr>(actor),
                 system.message_types(caf::detail::type_list<Handle>{}), host, port);
}

// Calls `ok(Handle)` or `failed(error)` on the actor `self` within `timeout`: later, or where it is a blocking one before
// this returns.
template <class Handle, class Self, class Ok, class Failed>
void connect_to(Self* self, const connector_actor& connector, const std::string& host,
                std::uint16_t port, std::chrono::milliseconds timeout, Ok ok, Failed failed) {
  const std::string where = host + ":" + std::to_string(port);
  auto reached = [=](const caf::node_id&, const caf::strong_actor_ptr& ptr,
                     const std::set<std::string>& interface) mutable {
    if (!ptr || !self->system().template assignable<Handle>(interface))
      failed(error{ec::identity_mismatch,
                   where + " is not a Troupe node of the expected role and version"});
    else
      ok(caf::actor_cast<Handle>(ptr));
  };
  auto unreachable = [=](const caf::error&) mutable {
    failed(error{ec::peer_lost, "cannot connect to " + where +
                                    ": does a Troupe process listen there (its cluster port, not "
                                    "the one for HTTP), with the same --cluster-secret-file?"});
  };
  auto asked = self->request(connector, timeout, caf::connect_atom_v, host, port);
  if constexpr (std::is_base_of_v<caf::blocking_actor, Self>)
    asked.receive(reached, unreachable);
  else
    asked.then(reached, unreachable);
}

}  // namespace troupe::actors
