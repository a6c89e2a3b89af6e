#include <cstdio>
#include <nlohmann/json.hpp>

#include "api/commands.hpp"
#include "api/server_call.hpp"
#include "api/status_table.hpp"

namespace troupe::api {

int run_command(const status_config& c) {
  const auto cluster = call_server_json({c.url, c.key}, "/v1/cluster");
  if (!cluster) return complain(cluster.error(), exit_configuration);
  std::fputs(c.json ? (cluster->dump(2) + "\n").c_str() : status_table(*cluster).c_str(), stdout);
  return exit_clean;
}

}  // namespace troupe::api
