#include "api/launch_file.hpp"

#include <toml++/toml.h>
#include <array>
#include <map>

#include "actors/cluster.hpp"
#include "api/api_keys.hpp"

namespace troupe::api {
namespace {

using flags = std::map<std::string, std::vector<std::string>>;

tl::unexpected<error> bad(const std::string& why) {
  return fail(ec::invalid_argument, "the cluster file: " + why);
}

result<flags> read_flags(const toml::table& table, const std::string& where) {
  flags out;
  for (const auto& [key, value] : table) {
    const std::string name(key.str());
    if (value.is_table() || value.is_array_of_tables()) continue;
    auto add = [&](const toml::node& one) -> result<void> {
      if (auto s = one.value_exact<std::string>())
        out[name].push_back(*s);
      else if (auto b = one.value_exact<bool>())
        out[name].push_back(*b ? "true" : "false");
      else if (auto i = one.value_exact<std::int64_t>())
        out[name].push_back(std::to_string(*i));
      else if (auto f = one.value_exact<double>())
        out[name].push_back(std::to_string(*f));
      else
        return bad(where + "'" + name + "' must be a plain value");
      return {};
    };
    if (const auto* list = value.as_array()) {
      for (const auto& one : *list) TROUPE_CHECK(add(one));
    } else {
      TROUPE_CHECK(add(value));
    }
  }
  return out;
}

std::string take(flags& f, const std::string& key, std::string fallback = {}) {
  auto found = f.find(key);
  if (found == f.end()) return fallback;
  std::string value = found->second.empty() ? fallback : found->second.front();
  f.erase(found);
  return value;
}

// Keys at the top of the file that serve and node both know.
constexpr std::array shared_by_all{"model",
                                   "device",
                                   "threads",
                                   "log-level",
                                   "log-format",
                                   "cluster-secret-file",
                                   "insecure-cluster",
                                   "max-model-len",
                                   "quantization",
                                   "exact",
                                   "speculation",
                                   "max-num-seqs",
                                   "max-num-batched-tokens",
                                   "gpu-memory-fraction",
                                   "kv-memory",
                                   "kv-blocks"};

result<flags> with_shared(const flags& top, flags own) {
  for (const auto& [key, values] : top) {
    bool known = false;
    for (const char* name : shared_by_all) known = known || key == name;
    if (!known) return bad("unknown key '" + key + "' at the top");
    own.try_emplace(key, values);
  }
  return own;
}

void append(const flags& f, std::vector<std::string>& arguments) {
  for (const auto& [key, values] : f)
    for (const auto& value : values) arguments.push_back("--" + key + "=" + value);
}

}  // namespace

result<std::vector<launch_entry>> parse_launch_file(std::string_view text) {
  toml::table file;
  try {
    file = toml::parse(text);
  } catch (const toml::parse_error& e) {
    return bad(std::string(e.description()) + " (line " + std::to_string(e.source().begin.line) +
               ")");
  }
  for (const auto& [key, value] : file)
    if ((value.is_table() && key.str() != "serve") ||
        (value.is_array_of_tables() && key.str() != "node"))
      return bad("unknown section '" + std::string(key.str()) + "': use [serve] and [[node]]");
  TROUPE_TRY(flags top, read_flags(file, ""));
  const toml::table* serve = file["serve"].as_table();
  if (!serve) return bad("[serve] is missing");
  TROUPE_TRY(flags gateway, read_flags(*serve, "[serve] "));

  std::vector<launch_entry> entries;
  const std::string gateway_host = take(gateway, "on");
  const std::string reach = gateway_host.empty() ? "127.0.0.1" : gateway_host;
  const std::string cluster_port = take(gateway, "cluster-port", "7070");
  gateway["cluster-port"] = {cluster_port};
  gateway.try_emplace("cluster-host", std::vector<std::string>{reach});
  // Prompts are read by the nodes of the file, if it has such.
  const toml::array* nodes = file["node"].as_array();
  if (nodes && !nodes->empty()) gateway.try_emplace("prefill", std::vector<std::string>{"0"});
  TROUPE_TRY(gateway, with_shared(top, std::move(gateway)));
  launch_entry first{"serve", gateway_host, {"serve"}};
  if (auto keys = gateway.extract("api-key")) {
    first.api_keys = std::move(keys.mapped());
    if (auto ok = api_keys::make(first.api_keys); !ok) return bad("[serve] " + ok.error().detail);
  }
  append(gateway, first.arguments);
  entries.push_back(std::move(first));

  for (std::size_t i = 0; nodes && i < nodes->size(); ++i) {
    TROUPE_TRY(flags node, read_flags(*nodes->get_as<toml::table>(i), "[[node]] "));
    const std::string host = take(node, "on"), count_text = take(node, "count", "1"),
                      role = take(node, "role");
    if (auto known = actors::check_role(role); !known)
      return bad("a [[node]]: " + known.error().detail);
    if (count_text.find_first_not_of("0123456789") != std::string::npos || count_text.size() > 2)
      return bad("a [[node]] has count " + count_text + ": use 0 to 99");
    node.try_emplace("cluster-host", std::vector<std::string>{host.empty() ? reach : host});
    node.try_emplace("join", std::vector<std::string>{reach + ":" + cluster_port});
    TROUPE_TRY(node, with_shared(top, std::move(node)));
    for (int k = 0; k < std::stoi(count_text); ++k) {
      const std::string name = role + (host.empty() ? "" : "-" + host) + "-" + std::to_string(i) +
                               "-" + std::to_string(k);
      launch_entry one{name, host, {"node", "--role=" + role, "--name=" + name}};
      append(node, one.arguments);
      entries.push_back(std::move(one));
    }
  }
  return entries;
}

}  // namespace troupe::api
