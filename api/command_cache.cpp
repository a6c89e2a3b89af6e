#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "api/commands.hpp"
#include "api/server_call.hpp"

namespace troupe::api {
namespace {

// What a prompt's reading may take.
constexpr std::chrono::seconds warm_timeout{600};

// The samples of the stores' metrics: {node: {name and tier: value}}.
std::map<std::string, std::map<std::string, double>> samples_of(const std::string& text) {
  std::map<std::string, std::map<std::string, double>> stores;
  auto label = [](const std::string& line, const std::string& name) {
    const auto at = line.find(name + "=\"");
    if (at == std::string::npos) return std::string();
    const auto begin = at + name.size() + 2;
    return line.substr(begin, line.find('"', begin) - begin);
  };
  std::size_t begin = 0;
  while (begin < text.size()) {
    const auto end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.rfind("troupe_store_", 0) != 0 || label(line, "role") != "kv-store") continue;
    std::string name = line.substr(13, line.find('{') - 13);
    if (const auto tier = label(line, "tier"); !tier.empty()) name += " " + tier;
    stores[label(line, "node")][name] = std::strtod(line.c_str() + line.rfind(' ') + 1, nullptr);
  }
  return stores;
}

result<void> show(const cache_config& c) {
  TROUPE_TRY(const auto text, call_server({c.url, c.key}, "/metrics"));
  const auto stores = samples_of(text);
  if (c.json) {
    std::printf("%s\n", nlohmann::json(stores).dump(2).c_str());
    return {};
  }
  if (stores.empty()) std::printf("no KV store is in the cluster (troupe serve --kv-store 1)\n");
  for (const auto& [node, values] : stores) {
    auto value = [&values = values](const char* name) {
      auto at = values.find(name);
      return at == values.end() ? 0.0 : at->second;
    };
    const double asked = value("queried_tokens_total");
    std::printf("%s\n", node.c_str());
    for (const char* tier : {"memory", "disk"}) {
      const std::string t(tier);
      std::printf("  %-7s %8.0f blocks %9.1f MiB  hits %10.0f tokens %5.1f %%  evictions %8.0f\n",
                  tier, value(("blocks " + t).c_str()), value(("bytes " + t).c_str()) / (1 << 20),
                  value(("hit_tokens_total " + t).c_str()),
                  asked > 0 ? 100 * value(("hit_tokens_total " + t).c_str()) / asked : 0.0,
                  value(("evictions_total " + t).c_str()));
    }
    std::printf("  leased %.0f, oldest use %.0f s ago\n", value("leased_blocks"),
                value("oldest_use_seconds"));
  }
  return {};
}

result<void> clear(const cache_config& c) {
  TROUPE_TRY(const auto answer, call_server_json({c.url, c.key}, "/v1/cache/clear", "{}"));
  if (!answer.contains("cleared_blocks"))
    return fail(ec::io_error, c.url + " is no server of ours");
  std::printf("%s blocks forgotten\n", answer["cleared_blocks"].dump().c_str());
  return {};
}

// Reading a prompt is all it takes: the nodes offer what they computed.
result<void> warm(const cache_config& c) {
  std::ifstream in(c.file);
  if (!in) return fail(ec::not_found, c.file.string() + " cannot be read");
  std::string model = c.model;
  if (model.empty()) {
    TROUPE_TRY(const auto text, call_server({c.url, c.key}, "/v1/models"));
    const auto models = nlohmann::json::parse(text, nullptr, false);
    if (!models.is_object() || !models.contains("data") || models["data"].empty())
      return fail(ec::io_error, c.url + " lists no model");
    model = models["data"][0].value("id", "");
  }
  std::size_t prompts = 0;
  std::uint64_t tokens = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    const nlohmann::json request = {
        {"model", model}, {"prompt", line}, {"max_tokens", 1}, {"temperature", 0}};
    TROUPE_TRY(const auto text,
               call_server({c.url, c.key}, "/v1/completions", request.dump(), warm_timeout));
    const auto answer = nlohmann::json::parse(text, nullptr, false);
    if (answer.is_object() && answer.contains("usage"))
      tokens += answer["usage"].value("prompt_tokens", std::uint64_t{0});
    ++prompts;
  }
  std::printf("%zu prompts, %llu tokens read\n", prompts, static_cast<unsigned long long>(tokens));
  return {};
}

}  // namespace

int run_command(const cache_config& c) {
  const auto done = c.action == "status" ? show(c) : c.action == "clear" ? clear(c) : warm(c);
  return done ? exit_clean : complain(done.error(), exit_configuration);
}

}  // namespace troupe::api
