#include "actors/server_actors.hpp"

#include "actors/directory.hpp"
#include "actors/router.hpp"

namespace troupe::actors {

server_actors spawn_server(caf::actor_system& system, const membership_options& members,
                           const gateway_options& options, std::shared_ptr<local_nodes> neighbours,
                           const connector_actor& connector) {
  server_actors s;
  s.directory = system.spawn(directory, members);
  s.context = std::make_shared<gateway_context>();
  s.context->options = options;
  s.context->directory = s.directory;
  s.context->neighbours = std::move(neighbours);
  s.context->connector = connector;
  s.context->metrics = std::make_shared<gateway_metrics>("gateway");
  s.context->router = s.router = system.spawn(router, s.context->metrics);
  s.gateway = system.spawn(gateway, s.context);
  return s;
}

}  // namespace troupe::actors
