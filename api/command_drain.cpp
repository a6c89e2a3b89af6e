// Drains nodes one after the other, and waits until each has left or is back.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "api/commands.hpp"
#include "api/server_call.hpp"

namespace troupe::api {
namespace {

using clock = std::chrono::steady_clock;
using nlohmann::json;

// Beyond a node's own limit: leases that end, and a process that starts and reads its model.
constexpr std::chrono::seconds slack{60};

// The node's incarnation and state; empty when it is not in the cluster.
std::pair<std::string, std::string> find_node(const json& cluster, const std::string& name) {
  for (const auto& n : cluster.value("nodes", json::array()))
    if (n.value("name", "") == name && n.value("state", "") != "lost")
      return {n.value("incarnation", ""), n.value("state", "")};
  return {};
}

result<void> drain_one(const drain_config& c, const std::string& name) {
  const server_address server{c.url, c.key};
  TROUPE_TRY(auto before, call_server_json(server, "/v1/cluster"));
  const auto old = find_node(before, name).first;
  const json wish = {
      {"node", name}, {"timeout_s", c.timeout_s}, {"restart", c.restart}, {"force", c.force}};
  TROUPE_CHECK(call_server(server, "/v1/cluster/drain", wish.dump()));
  std::printf("%s: draining\n", name.c_str());
  std::fflush(stdout);
  const auto deadline = clock::now() + std::chrono::seconds(c.timeout_s) + slack;
  while (clock::now() < deadline) {
    TROUPE_TRY(auto now, call_server_json(server, "/v1/cluster"));
    const auto [incarnation, state] = find_node(now, name);
    if (c.restart ? incarnation != old && state == "ready" : incarnation != old) {
      std::printf("%s: %s\n", name.c_str(), c.restart ? "is back" : "has left");
      return {};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return fail(ec::deadline_exceeded,
              name + (c.restart ? " is not back in time: does something start it again (troupe "
                                  "serve does, systemd does)?"
                                : " still runs requests: see troupe status"));
}

result<void> drain_all(const drain_config& c) {
  std::vector<std::string> names{c.node};
  if (c.all) {
    names.clear();
    TROUPE_TRY(auto cluster, call_server_json({c.url, c.key}, "/v1/cluster"));
    for (const auto& n : cluster.value("nodes", json::array()))
      if (n.value("role", "") != "gateway" && n.value("state", "") == "ready")
        names.push_back(n.value("name", ""));
  }
  for (const auto& name : names) TROUPE_CHECK(drain_one(c, name));
  return {};
}

}  // namespace

int run_command(const drain_config& c) {
  if (c.node.empty() && !c.all)
    return complain(
        {ec::invalid_argument, "which node? A name as troupe status shows it, or --all"},
        exit_configuration);
  if (c.all && !c.restart && !c.force)
    return complain({ec::invalid_argument, "--all without --restart empties the cluster: --force"},
                    exit_configuration);
  auto done = drain_all(c);
  return done ? exit_clean : complain(done.error(), exit_configuration);
}

}  // namespace troupe::api
