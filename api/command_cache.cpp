#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "api/commands.hpp"
#include "api/server_call.hpp"

namespace troupe::api {
namespace {

// What a prompt's reading may take.
constexpr std::chrono::seconds warm_timeout{600};
constexpr std::uint64_t usual_block_tokens = 16;  // only to know how long to wait for

std::string counted(std::uint64_t n, const char* noun) {
  return std::to_string(n) + " " + noun + (n == 1 ? "" : "s");
}

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
      const double blocks = value(("blocks " + t).c_str());
      std::printf("  %-7s %8.0f %-6s %9.1f MiB  hits %10.0f tokens %5.1f %%  evictions %8.0f\n",
                  tier, blocks, blocks == 1 ? "block" : "blocks",
                  value(("bytes " + t).c_str()) / (1 << 20),
                  value(("hit_tokens_total " + t).c_str()),
                  asked > 0 ? 100 * value(("hit_tokens_total " + t).c_str()) / asked : 0.0,
                  value(("evictions_total " + t).c_str()));
    }
    std::printf("  leased %.0f, pinned %.0f, oldest use %.0f s ago\n", value("leased_blocks"),
                value("pinned_blocks"), value("oldest_use_seconds"));
  }
  return {};
}

result<void> clear(const cache_config& c) {
  TROUPE_TRY(const auto answer, call_server_json({c.url, c.key}, "/v1/cache/clear", "{}"));
  if (!answer.contains("cleared_blocks"))
    return fail(ec::io_error, c.url + " is no server of ours");
  std::printf("%s forgotten\n",
              counted(answer["cleared_blocks"].get<std::uint64_t>(), "block").c_str());
  return {};
}

result<std::string> model_of(const cache_config& c) {
  if (!c.model.empty()) return c.model;
  TROUPE_TRY(const auto text, call_server({c.url, c.key}, "/v1/models"));
  const auto models = nlohmann::json::parse(text, nullptr, false);
  if (!models.is_object() || !models.contains("data") || models["data"].empty())
    return fail(ec::io_error, c.url + " lists no model");
  return models["data"][0].value("id", "");
}

// Reading a prompt is all it takes: the nodes offer what they computed. How many tokens it has.
result<std::uint64_t> read_prompt(const cache_config& c, const std::string& model,
                                  const std::string& prompt) {
  nlohmann::json request = {
      {"model", model}, {"prompt", prompt}, {"max_tokens", 1}, {"temperature", 0}};
  if (!c.cache_salt.empty()) request["cache_salt"] = c.cache_salt;
  TROUPE_TRY(const auto text,
             call_server({c.url, c.key}, "/v1/completions", request.dump(), warm_timeout));
  const auto answer = nlohmann::json::parse(text, nullptr, false);
  return answer.is_object() && answer.contains("usage")
             ? answer["usage"].value("prompt_tokens", std::uint64_t{0})
             : std::uint64_t{0};
}

// A prompt in the place of its file is told by its beginning.
result<std::ifstream> open_file(const std::filesystem::path& file, const char* what) {
  std::ifstream in(file, std::ios::binary);
  if (in) return in;
  constexpr std::size_t most = 60;
  std::string name = file.string();
  if (name.size() > most) name = name.substr(0, most) + "...";
  return fail(ec::not_found, "there is no file '" + name + "' to read; FILE is " + what);
}

result<void> warm(const cache_config& c) {
  TROUPE_TRY(std::ifstream in, open_file(c.file, "a text file, one prompt a line"));
  TROUPE_TRY(const std::string model, model_of(c));
  std::uint64_t prompts = 0, tokens = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    TROUPE_TRY(const auto read, read_prompt(c, model, line));
    tokens += read;
    ++prompts;
  }
  std::printf("%s, %s read\n", counted(prompts, "prompt").c_str(),
              counted(tokens, "token").c_str());
  return {};
}

// -- pins ----------------------------------------------------------------------------------------------------------------

struct pinned {
  std::uint64_t blocks = 0;
  std::string hash;
};

result<pinned> tell_stores(const cache_config& c, nlohmann::json request) {
  const bool pin = c.action == "pin";
  request["pinned"] = pin;
  request["ttl_s"] = c.ttl_s;
  if (!c.cache_salt.empty()) request["cache_salt"] = c.cache_salt;
  TROUPE_TRY(const auto answer, call_server_json({c.url, c.key}, "/v1/cache/pin", request.dump()));
  const char* count = pin ? "pinned_blocks" : "unpinned_blocks";
  if (!answer.contains(count)) return fail(ec::io_error, c.url + " is no server of ours");
  return pinned{answer[count].get<std::uint64_t>(), answer.value("hash", "")};
}

// The whole file is one prompt. To pin one that no store has yet it is read first; stores pull its blocks a little later.
result<void> pin(const cache_config& c) {
  nlohmann::json request;
  std::uint64_t whole_blocks = 0;
  if (!c.hash.empty()) {
    request["hash"] = c.hash;
  } else {
    if (c.file.empty())
      return fail(ec::invalid_argument, "a FILE with the prompt, or --hash, is needed");
    TROUPE_TRY(std::ifstream in, open_file(c.file, "a text file that is the prompt"));
    const std::string prompt{std::istreambuf_iterator<char>(in), {}};
    request["prompt"] = prompt;
    if (c.action == "pin") {
      TROUPE_TRY(const std::string model, model_of(c));
      TROUPE_TRY(const auto tokens, read_prompt(c, model, prompt));
      whole_blocks = tokens / usual_block_tokens;
    }
  }
  TROUPE_TRY(auto done, tell_stores(c, request));
  for (int i = 0; i < 20 && done.blocks < whole_blocks; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    TROUPE_TRY(done, tell_stores(c, request));
  }
  if (done.blocks == 0 && c.action == "pin")
    return fail(ec::not_found,
                whole_blocks == 0
                    ? "the prompt is shorter than a block of " +
                          std::to_string(usual_block_tokens) +
                          " tokens, which is what a store keeps"
                    : std::string("no KV store has any of it: is one in the cluster?"));
  std::printf("%s %s%s%s\n", counted(done.blocks, "block").c_str(),
              c.action == "pin" ? "pinned" : "unpinned", done.hash.empty() ? "" : ", hash ",
              done.hash.c_str());
  return {};
}

}  // namespace

int run_command(const cache_config& c) {
  const auto done = c.action == "status"  ? show(c)
                    : c.action == "clear" ? clear(c)
                    : c.action == "warm"  ? warm(c)
                                          : pin(c);
  return done ? exit_clean : complain(done.error(), exit_configuration);
}

}  // namespace troupe::api
