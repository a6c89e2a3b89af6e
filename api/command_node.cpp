#include <chrono>

#include "actors/children.hpp"
#include "api/commands.hpp"
#include "api/serving.hpp"
#include "api/stop_signals.hpp"

namespace troupe::api {
namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::chrono::seconds stop_limit{8};

result<actors::node_options> options_of(const node_config& c) {
  actors::node_options o;
  TROUPE_TRY(o.model, find_model(c.model));
  TROUPE_TRY(auto target, parse_host_port(c.join, "--join"));
  o.name = c.name;
  o.role = c.role;
  o.model_name =
      c.model.served_names.empty() ? o.model.stem().string() : c.model.served_names.front();
  o.runner = c.node.runner;
  o.engine = c.node.engine;
  o.store = c.node.store;
  o.network = c.node.network;
  o.join_host = target.first;
  o.join_port = target.second;
  return o;
}

// Which exit code a node leaves with when it cannot start or go on.
int code_for(const error& e) {
  switch (e.code) {
    case ec::not_found:
    case ec::corrupt_file:
      return exit_model;
    case ec::unsupported:
    case ec::device_lost:
    case ec::out_of_memory:
      return exit_device;
    default:
      return exit_configuration;
  }
}

}  // namespace

int run_command(const node_config& c) {
  stop_signals signals;
  log_options log = c.log;
  log.node = c.name.empty() ? c.role : c.name;
  if (auto ok = start_logging(log); !ok) return complain(ok.error(), exit_configuration);
  auto options = options_of(c);
  if (!options) return complain(options.error(), code_for(options.error()));
  auto node = actors::node_process::start(*options);
  if (!node) return complain(node.error(), code_for(node.error()));
  while (!(*node)->drained() && !signals.wait(milliseconds(200))) {
    if ((*node)->joined()) actors::report_up();
    if (auto f = (*node)->failure()) {
      signals.end_within(stop_limit, code_for(*f));
      return complain(*f, code_for(*f));
    }
  }
  if ((*node)->drained()) {  // an operator's wish: troupe drain
    const int code = (*node)->restart() ? exit_restart : exit_clean;
    spdlog::info("drained: this node {}", code == exit_restart ? "starts again" : "leaves");
    signals.end_within(stop_limit, code);
    node->reset();
    return code;
  }
  (*node)->drain();
  const auto deadline = clock::now() + std::chrono::seconds(c.drain_timeout_s);
  while (!(*node)->drained() && clock::now() < deadline && !(*node)->failure())
    if (signals.wait(milliseconds(20))) break;
  signals.end_within(stop_limit, exit_clean);
  node->reset();
  return exit_clean;
}

}  // namespace troupe::api
