#include "api/launch_check.hpp"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "actors/listen_check.hpp"
#include "actors/placement.hpp"
#include "api/api_keys.hpp"
#include "api/command_line.hpp"
#include "api/cors.hpp"
#include "model/inspect.hpp"
#include "model/synthetic.hpp"

namespace troupe::api {
namespace {

// "--key" of "--key=value"; the value's text.
std::pair<std::string, std::string> flag_of(const std::string& argument) {
  const auto equals = argument.find('=');
  if (equals == std::string::npos) return {argument, {}};
  return {argument.substr(0, equals), argument.substr(equals + 1)};
}

bool is_file_of_its_host(const std::string& flag) {
  return flag == "--cluster-secret-file" || flag == "--draft-model" || flag == "--draft" ||
         flag == "--config";
}

std::string first_line(const std::string& text) {
  constexpr std::string_view begin = "troupe: ";
  std::string line = text.substr(0, text.find('\n'));
  return line.starts_with(begin) ? line.substr(begin.size()) : line;
}

class launch_checker {
 public:
  std::vector<std::string> findings;

  void check(const launch_entry& e, bool here) {
    entry_ = e.name;
    auto command = read_flags(e, here);
    if (!command) return;
    if (auto* serve = std::get_if<serve_config>(&*command)) {
      if (!e.api_keys.empty()) serve->http.keys = e.api_keys;
      check_serve(*serve, here);
    }
    if (const auto* node = std::get_if<node_config>(&*command)) check_node(*node, here);
  }

 private:
  void say(const std::string& what) {
    // Four nodes of one table would say the same thing four times.
    if (said_.insert(what).second) findings.push_back(entry_ + ": " + what);
  }
  void say(const result<void>& r) {
    if (!r) say(r.error().detail);
  }

  // The parser stops at the first mistake: what it names is left out, so that it finds the next one.
  std::optional<any_command> read_flags(const launch_entry& e, bool here) {
    auto arguments = e.arguments;
    if (!here)
      std::erase_if(arguments, [](const auto& a) { return is_file_of_its_host(flag_of(a).first); });
    bool faultless = true;
    for (;;) {
      auto parsed = parse_command_line(arguments);
      if (parsed.what && faultless) return std::move(parsed.what);
      if (parsed.what) return std::nullopt;
      faultless = false;
      const auto text = first_line(parsed.text);
      say(text);
      const auto named = std::find_if(arguments.begin() + 1, arguments.end(), [&](const auto& a) {
        return text.find(flag_of(a).first) != std::string::npos;
      });
      if (named == arguments.end()) return std::nullopt;
      arguments.erase(named);
    }
  }

  void check_serve(const serve_config& c, bool here) {
    check_network(c.node.network, here);
    say(cors::make(c.http.allowed_origins).map([](const cors&) {}));
    if (!here) return;
    check_port(c.http.host, c.http.port, "--host, --port");
    for (const auto& [keys, file] : {std::pair(c.http.keys, c.http.key_file),
                                     std::pair(std::vector<std::string>{}, c.http.admin_key_file)})
      say(api_keys::load(keys, file).map([](const api_keys&) {}));
    check_model(c.model, c.node.engine.max_model_len);
    if (c.draft > 0) check_model({c.draft_model, {}}, 0);
    check_devices(c.node.runner, c.prefill + c.decode);
    if (c.draft > 0 && !c.draft_device.empty()) {
      auto draft = c.node.runner;
      draft.device = c.draft_device;
      check_devices(draft, c.draft);
    }
    if (c.kv_store > 0) check_disk(c.node.store.disk);
  }

  void check_node(const node_config& c, bool here) {
    check_network(c.node.network, here);
    if (const auto target = parse_host_port(c.join, "--join")) check_name(target->first, "--join");
    if (!here) return;
    check_model(c.model, c.node.engine.max_model_len);
    if (c.role == "kv-store")
      check_disk(c.node.store.disk);
    else
      check_devices(c.node.runner, 1);
  }

  void check_network(const actors::network_settings& net, bool here) {
    // The secret's file was not read for a host that is not this one.
    if (here) say(actors::check(net));
    if (here)
      check_port(net.host, net.port, "--cluster-host, --cluster-port");
    else
      check_name(net.host, "--cluster-host");
  }

  void check_port(const std::string& host, std::uint16_t port, const std::string& flags) {
    if (port != 0 && !ports_.emplace(host, port).second)
      return say(flags + ": " + host + ":" + std::to_string(port) +
                 " is given twice in the cluster file");
    say(actors::check_listen(host, port, flags));
  }

  void check_name(const std::string& host, const std::string& flag) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (const int code = ::getaddrinfo(host.c_str(), nullptr, &hints, &found); code != 0)
      return say(flag + ": '" + host + "' cannot be resolved: " + ::gai_strerror(code));
    ::freeaddrinfo(found);
  }

  // Its header, not its weights.
  void check_model(const model_choice& choice, std::uint32_t max_model_len) {
    const auto path = find_model(choice);
    if (!path) return say(path.error().detail);
    if (model::is_synthetic(*path)) return;
    const auto described = model::inspect(*path);
    if (!described) return say(described.error().detail);
    if (!described->obstacle.empty())
      return say("the model '" + path->string() + "': " + described->obstacle);
    const auto context = described->config ? described->config->max_position_embeddings : 0;
    if (context > 0 && max_model_len > context)
      say("--max-model-len " + std::to_string(max_model_len) + ": the model's context is " +
          std::to_string(context) + " tokens");
  }

  void check_devices(const gpu::runner_options& options, std::size_t nodes) {
    const auto placed = actors::place_nodes(options, nodes);
    if (!placed) return say(placed.error().detail);
    for (const auto& p : *placed) {
      auto one = options;
      one.device = p.device;
      say(gpu::check_device(one));
    }
  }

  // It is made when it is missing, so what is there of the path must be a directory to write in.
  void check_disk(const std::filesystem::path& disk) {
    if (disk.empty()) return;
    std::error_code none;
    auto there = std::filesystem::absolute(disk, none);
    while (!there.empty() && there.has_parent_path() && !std::filesystem::exists(there, none) &&
           there != there.parent_path())
      there = there.parent_path();
    if (!std::filesystem::is_directory(there, none) || ::access(there.c_str(), W_OK | X_OK) != 0)
      say("--kv-store-disk '" + disk.string() + "': '" + there.string() +
          "' is no directory that can be written to");
  }

  std::string entry_;
  std::set<std::string> said_;
  std::set<std::pair<std::string, std::uint16_t>> ports_;
};

}  // namespace

std::vector<std::string> check_launch(const std::vector<launch_entry>& entries,
                                      const launch_site& here) {
  launch_checker checker;
  for (const auto& e : entries) checker.check(e, here.runs(e));
  return std::move(checker.findings);
}

}  // namespace troupe::api
