#include "api/command_flags.hpp"

namespace troupe::api {

// By its own variable: TROUPE_MODEL is the file that a server serves.
void add_model_name(CLI::App& a, std::string& name) {
  a.add_option("--model", name, "Model name (default: the first that the server lists)")
      ->envname("TROUPE_MODEL_NAME");
}

// The commands that read and print, or tell a server what to do.
void add_tools(builder& b) {
  auto* inspect = add_command(b.app, "inspect", "Describe a model file without loading it");
  add_model(*inspect, b.inspect.model, false);
  inspect->add_flag("--json", b.inspect.json);

  auto* tokenize = add_command(b.app, "tokenize", "Token ids of a text");
  tokenize->add_option("TEXT", b.tokenize.text)->required();
  tokenize->add_option("--model", b.tokenize.model.path,
                       "GGUF file (default: the model of deploy/get-model)");
  tokenize->add_flag("!--no-special", b.tokenize.special, "Without beginning and end tokens");

  auto* cache = add_command(b.app, "cache", "The KV stores of a running server");
  cache->require_subcommand(1);
  const std::pair<const char*, const char*> actions[] = {
      {"status", "What the stores keep, and how often it was of use"},
      {"clear", "Forget everything that nobody reads at the moment"},
      {"warm", "Have prompts read, so that their KV is in the stores"},
      {"pin", "Keep a prompt's KV in the stores, whatever else is asked for"},
      {"unpin", "Keep it no more than any other"}};
  for (std::size_t i = 0; i < std::size(actions); ++i) {
    auto& c = b.cache[i];
    c.action = actions[i].first;
    auto* a = add_command(*cache, actions[i].first, actions[i].second);
    add_url(*a, c.url, c.key, "Server to ask");
    if (c.action == "status") a->add_flag("--json", c.json, "As JSON");
    if (c.action == "status" || c.action == "clear") continue;
    auto* file = a->add_option(
        "FILE", c.file, c.action == "warm" ? "One prompt a line" : "The prompt: a text file");
    if (c.action != "unpin") add_model_name(*a, c.model);
    if (c.action == "warm") {
      file->required();
      continue;
    }
    a->add_option("--hash", c.hash, "Instead of the file: what pinning it printed")->excludes(file);
    a->add_option("--cache-salt", c.cache_salt, "Of requests with this salt (default: none)");
    if (c.action == "pin")
      a->add_option("--ttl-s", c.ttl_s, "Pinned for so long; 0: until it is unpinned")
          ->check(within(0, 366 * 86'400))
          ->capture_default_str();
  }

  auto* status =
      add_command(b.app, "status", "Nodes, roles, queues and blocks of a running server");
  add_url(*status, b.status.url, b.status.key, "Server to ask");
  status->add_flag("--json", b.status.json, "As JSON");

  auto* drain = add_command(b.app, "drain",
                            "Take a node out of service without losing a request, and wait for it");
  add_url(*drain, b.drain.url, b.drain.key, "Server to ask");
  auto* node = drain->add_option("NODE", b.drain.node, "Its name as troupe status shows it");
  drain->add_flag("--all", b.drain.all, "Every node, one after the other")->excludes(node);
  drain->add_flag("--restart", b.drain.restart,
                  "Its supervisor (troupe serve, systemd) starts it again");
  drain->add_flag("--force", b.drain.force, "Even the last decode node");
  drain
      ->add_option("--timeout-s", b.drain.timeout_s,
                   "Requests that still run then move to another decode node")
      ->check(within(1, 86400));
}

}  // namespace troupe::api
