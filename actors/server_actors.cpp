#include "actors/server_actors.hpp"

#include "actors/directory.hpp"
#include "actors/router.hpp"
#include "actors/wire.hpp"

namespace troupe::actors {

server_actors spawn_server(caf::actor_system& system, const membership_options& members,
                           const gateway_options& options, std::shared_ptr<local_nodes> neighbours,
                           const connector_actor& connector) {
  server_actors s;
  auto metrics = std::make_shared<gateway_metrics>("gateway");
  auto table_options = members;
  table_options.on_lost = [metrics](role r) {
    metrics->worker_lost(std::string(to_string(r))).Increment();
  };
  s.directory = system.spawn(directory, std::move(table_options));
  s.context = std::make_shared<gateway_context>();
  s.context->options = options;
  s.context->directory = s.directory;
  s.context->neighbours = std::move(neighbours);
  s.context->connector = connector;
  s.context->metrics = metrics;
  s.context->router = s.router = system.spawn(router, std::move(metrics));
  s.gateway = system.spawn(gateway, s.context);
  return s;
}

}  // namespace troupe::actors
