#include <cstdio>
#include <nlohmann/json.hpp>

#include "api/commands.hpp"
#include "api/http_client.hpp"
#include "api/status_table.hpp"

namespace troupe::api {

int run_command(const status_config& c) {
  auto to = parse_url(c.url);
  if (!to) return complain(to.error(), exit_configuration);
  client_request request;
  request.path = "/v1/cluster";
  request.key = c.key;
  request.timeout = std::chrono::seconds(10);
  auto response = send_request(*to, request);
  if (!response) return complain(response.error(), exit_configuration);
  if (response->status != 200)
    return complain({ec::io_error, error_message(*response)}, exit_configuration);
  const auto cluster = nlohmann::json::parse(response->body, nullptr, false);
  if (!cluster.is_object())
    return complain({ec::io_error, c.url + " is no server of ours: /v1/cluster is no JSON"},
                    exit_configuration);
  std::fputs(c.json ? (cluster.dump(2) + "\n").c_str() : status_table(cluster).c_str(), stdout);
  return exit_clean;
}

}  // namespace troupe::api
