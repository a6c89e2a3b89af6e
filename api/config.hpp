// Everything the command line can say, as plain structs with defaults; api/command_line fills them from flags,
// environment and a TOML file. validate() checks what concerns several fields at once and names the flag.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include "actors/capacity/plan.hpp"
#include "actors/cluster.hpp"
#include "base/log.hpp"
#include "base/result.hpp"

namespace troupe::api {

// Exit codes of the binary.
inline constexpr int exit_clean = 0, exit_configuration = 1, exit_model = 2, exit_device = 3,
                     exit_restart = 75;  // sysexits.h's EX_TEMPFAIL: start it again

struct model_choice {
  std::filesystem::path path;             // empty: the default model
  std::vector<std::string> served_names;  // empty: the model's own name
  std::string tool_call_parser =
      "auto";  // of the doors; auto, none, or a name of call_syntax_names
};

// How a node computes and where it listens; shared by serve, node, run, chat.
struct node_settings {
  gpu::runner_options runner;
  actors::engine_settings engine;
  actors::store_settings store;
  actors::network_settings network;
  std::filesystem::path secret_file;
};

struct http_settings {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8000;
  std::vector<std::string> keys;
  std::filesystem::path key_file, admin_key_file;
  std::vector<std::string> allowed_origins;  // as cors::make takes them
  unsigned threads = 2;
  std::uint32_t max_connections = 1024;
  std::uint32_t max_body_mib = 8;
  bool web_ui = true;
  std::uint32_t request_timeout_s = 600;
  std::uint32_t sse_ping_s = 15;
};

struct serve_config {
  model_choice model;
  node_settings node;
  http_settings http;
  std::uint32_t prefill = 1, decode = 1, kv_store = 0, draft = 0;
  std::filesystem::path draft_model;  // of drafts; given alone it means one
  std::string draft_device;           // empty: as the others
  unsigned draft_threads = 0;
  bool single_process = false;
  std::uint32_t max_queued = 1024, max_queue_wait_s = 30;
  std::uint32_t drain_timeout_s = 60;
  log_options log;
};

struct node_config {
  model_choice model;
  node_settings node;
  std::string role;
  std::string name;
  std::string join;  // HOST:PORT
  std::uint32_t drain_timeout_s = 60;
  log_options log;
};

struct launch_config {
  std::filesystem::path file;
  std::string as;  // this host's name in the file; empty: found by its addresses
  bool dry_run = false;
  log_options log;
};

// `run` and `chat`: of a server given by URL, or of a cluster in this process.
struct ask_config {
  bool chat = false;
  std::string url, key;
  model_choice model;
  node_settings node;
  std::string prompt;  // of run
  std::string system;
  float temperature = 0.7f, top_p = 0.95f;
  std::uint32_t max_tokens = 0;  // 0: the rest of the context
  std::int64_t seed = -1;        // -1: random
  bool explain = false;
  log_options log{"warn", "text", ""};
};

struct inspect_config {
  model_choice model;
  bool json = false;
};

struct tokenize_config {
  model_choice model;
  std::string text;
  bool special = true;  // beginning and end as the model wants them
};

struct status_config {
  std::string url = "http://127.0.0.1:8000", key;
  bool json = false;
};

// `troupe cache status | clear | warm | pin | unpin` of a server's KV stores.
struct cache_config {
  std::string action;
  std::string url = "http://127.0.0.1:8000", key;
  bool json = false;
  std::filesystem::path file;    // of warm: one prompt a line; of pin and unpin: the prompt
  std::string hash, cache_salt;  // of pin and unpin: instead of the file; of a salted prompt
  std::uint32_t ttl_s = 0;       // of pin; 0: until it is unpinned
  std::string model;             // of warm and pin; empty: the first that the server lists
};

struct drain_config {
  std::string url = "http://127.0.0.1:8000", key;
  std::string node;  // empty with `all`
  bool all = false;  // one after the other
  bool restart = false, force = false;
  std::uint32_t timeout_s = 30;
};

// `troupe simulate`: capacity planning.
struct simulate_config {
  std::filesystem::path trace, profile, prefill_profile;
  double from_s = 0, to_s = 1e18;
  std::uint32_t nodes = 0, decode_given = 0;
  bool find_ratio = false, json = false;
  actors::plan_options plan;  // the profiles are read later
};

// `troupe quantize`: a model file with its weights in another type.
struct quantize_config {
  std::filesystem::path in, out;
  std::string type;            // of matrices; "keep": as they are
  std::string embedding_type;  // of embeddings and output; empty: the same
};

// `troupe prune`: a model of some layers of another.
struct prune_config {
  std::filesystem::path in, out;
  std::string layers;                        // "0-9,28,29"
  std::uint32_t keep = 0;                    // or so many, chosen for a draft
  std::uint32_t vocab = 0;                   // tokens of the output; 0: all
  std::vector<std::filesystem::path> texts;  // whose tokens it should have
};

struct version_config {};

struct bench_serve_config {
  std::string url = "http://127.0.0.1:8000", key, model;
  std::string backend = "openai";  // openai: /v1/completions; openai-chat
  std::uint32_t num_prompts = 100;
  double request_rate = 0;            // a second, Poisson; 0: all at once
  std::uint32_t max_concurrency = 0;  // 0: no limit of its own
  std::uint32_t input_len = 256, output_len = 64, prefix_len = 0;
  std::uint64_t seed = 0;
  bool ignore_eos = true;
  double timeout_s = 0;              // that requests tell the server; 0: none
  std::vector<std::string> goodput;  // "ttft:200", milliseconds
  std::filesystem::path output;      // JSON
};

struct bench_engine_config {
  model_choice model;
  gpu::runner_options runner;
  std::vector<std::uint32_t> prompt{512}, generate{128}, parallel{16}, depth{0};
  bool speculation = false;
  std::filesystem::path profile;      // measured for `troupe simulate` and written there
  std::filesystem::path draft_model;  // compared too
  std::uint32_t draft_delay_ms = 0;   // of a link to it, each way
  std::uint32_t repetitions = 5;
  std::string output = "md";  // md, json
};

struct bench_kv_config {
  std::vector<std::size_t> block_bytes{368704,
                                       2097216};  // SmolLM2-135M's and Llama-3-8B's blocks in f16
};

using any_command =
    std::variant<serve_config, node_config, launch_config, ask_config, inspect_config,
                 tokenize_config, status_config, cache_config, drain_config, simulate_config,
                 quantize_config, prune_config, version_config, bench_serve_config,
                 bench_engine_config, bench_kv_config>;

result<void> validate(serve_config& c);
result<void> validate(node_config& c);

// The model file to use: as given, else the default one, which deploy/get-model puts there.
result<std::filesystem::path> find_model(const model_choice& choice);
std::filesystem::path default_model_path();
// "HOST:PORT"; IPv6 addresses in brackets.
result<std::pair<std::string, std::uint16_t>> parse_host_port(const std::string& text,
                                                              const std::string& flag);
// --speculation: auto, ngram, draft or off.
std::string speculation_text(const engine::speculation_options& o);
void set_speculation(engine::speculation_options& o, const std::string& how);
// Flags that make a node like these settings.
std::vector<std::string> node_flags(const node_settings& s, const log_options& log);
// "1.5GiB", "512M", "1000000" to bytes.
result<std::uint64_t> parse_bytes(const std::string& text, const std::string& flag);

}  // namespace troupe::api
