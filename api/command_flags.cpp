#include "api/command_flags.hpp"

#include "engine/structured/tool_calls.hpp"
#include "model/synthetic.hpp"

namespace troupe::api {

CLI::App* add_command(CLI::App& parent, const char* name, const char* help) {
  auto* a = parent.add_subcommand(name, help);
  a->fallthrough(false);
  return a;
}

void add_model(CLI::App& a, model_choice& m, bool names) {
  a.add_option("MODEL,--model", m.path,
               "GGUF file, or a directory of safetensors (default: the model of deploy/get-model)")
      ->group("Model");
  a.add_option_function<std::string>(
       "--synthetic", [&m](const std::string& name) { m.path = model::synthetic_path(name); },
       "Instead of a file: random weights of a real shape, made on the GPU: llama-3-8b, "
       "llama-3-70b-slice, tiny, each also with :q4 or :fp8")
      ->group("Model");
  if (names)
    a.add_option("--served-model-name", m.served_names,
                 "Names that requests may use; the first is shown")
        ->group("Model");
}

void add_runner(CLI::App& a, gpu::runner_options& r) {
  a.add_option(
       "--device", r.device,
       "auto, cpu, cuda or cuda:N; of a server several with commas, which its nodes take in "
       "turn, prefill first")
      ->group("Device");
  a.add_option("--gpu-memory-fraction", r.gpu_memory_fraction,
               "Of the GPU's memory, for a node's weights and KV (default: 0.9, divided among the "
               "server's nodes on that GPU)")
      ->check(within(0.01, 1.0))
      ->group("Device");
  a.add_option("--threads", r.num_threads,
               "Threads of one node on the host device (default: its cores)")
      ->check(within(1, 1024))
      ->group("Device");
  a.add_option("--isa", r.isa, "Instruction set of the host device, for tests")
      ->check(CLI::IsMember({"auto", "avx512vnni", "avxvnni", "avx2", "portable"}))
      ->group("Device");
  a.add_option("--quantization", r.quantization,
               "CUDA: fp8 makes E4M3 with a scale a row of weights that the file does not have "
               "quantized (default: as in the file)")
      ->check(CLI::IsMember({"fp8"}))
      ->group("Device");
  a.add_flag("--exact", r.exact,
             "CUDA: fixed orders of addition, so that answers do not depend on the batch")
      ->group("Device");
}

void add_step_sizes(CLI::App& a, actors::engine_settings& e, int most_seqs, const char* group) {
  using actors::gpu_steps, actors::host_steps;
  const auto add = [&](const char* flag, std::uint32_t& value, const std::string& help, int least,
                       int most, std::uint32_t on_host, std::uint32_t on_gpu) {
    a.add_option(flag, value,
                 help + " (default: " + std::to_string(on_host) + ", on a GPU " +
                     std::to_string(on_gpu) + ")")
        ->check(within(least, most))
        ->group(group);
  };
  add("--max-num-seqs", e.max_num_seqs, "Sequences that run at once on a node", 1, most_seqs,
      host_steps.seqs, gpu_steps.seqs);
  add("--max-num-batched-tokens", e.max_num_batched_tokens, "Tokens of one step", 16, 1 << 16,
      host_steps.batched_tokens, gpu_steps.batched_tokens);
  add("--max-prefill-chunk", e.max_prefill_chunk, "Tokens of one prompt in one step", 16, 1 << 16,
      host_steps.prefill_chunk, gpu_steps.prefill_chunk);
}

void add_url(CLI::App& a, std::string& url, std::string& key, const char* help) {
  a.add_option("--url", url, help)->group("Server");
  a.add_option("--api-key", key, "Key of the server")->group("Server");
}

namespace {

void add_log(CLI::App& a, log_options& log) {
  a.add_option("--log-level", log.level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->group("Log");
  a.add_option("--log-format", log.format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->group("Log");
}

void add_engine(CLI::App& a, actors::engine_settings& e, std::string& kv_memory) {
  a.add_option("--max-model-len", e.max_model_len,
               "Longest prompt and answer together (default: the model's context)")
      ->check(within(16, 1 << 24))
      ->group("Engine");
  a.add_option("--kv-memory", kv_memory,
               "Memory for KV blocks, e.g. 512M (default: a fifth of what is free, at most 1G)")
      ->group("Engine");
  a.add_option("--kv-blocks", e.num_kv_blocks, "Number of KV blocks, instead of --kv-memory")
      ->check(within(4, 1 << 24))
      ->group("Engine");
  add_step_sizes(a, e, 256, "Engine");
  a.add_option("--max-waiting", e.max_waiting,
               "Waiting requests of a node; one more is refused with 503")
      ->check(within(0, 1 << 20))
      ->group("Engine");
  a.add_option("--inter-token-target-ms", e.inter_token_target,
               "With decodes running, prefill chunks keep steps within this")
      ->check(within(1, 60'000))
      ->group("Engine");
  a.add_option("--lease-ms", e.lease, "How long a prefill node holds blocks for their reader")
      ->check(within(100, 3'600'000))
      ->group("Engine");
  a.add_option_function<std::string>(
       "--speculation", [&e](const std::string& how) { set_speculation(e.speculation, how); },
       "Guess tokens and check several in a pass: same text, sooner. From prompt and output "
       "(ngram), by draft nodes even where that is slower (draft), or whatever is found faster "
       "(auto)")
      ->check(CLI::IsMember({"auto", "ngram", "draft", "off"}))
      ->default_str("auto")
      ->group("Engine");
  a.add_option("--speculative-tokens", e.speculation.max_tokens,
               "Guesses of one sequence in a pass at most; how many pay is measured")
      ->check(within(1, 64))
      ->group("Engine");
  a.add_option_function<std::uint64_t>(
       "--speculative-history",
       [&e](std::uint64_t mib) { e.speculation.history_bytes = mib << 20; },
       "MiB of recent answers that a decode node keeps to guess from, for requests of the same API "
       "key and cache_salt only; 0: none")
      ->check(within(0, 1 << 16))
      ->default_str("0")
      ->group("Engine");
  a.add_flag("!--no-prefix-caching", e.prefix_caching, "Compute every prompt anew")
      ->group("Engine");
}

void add_network(CLI::App& a, node_settings& s, const char* port_help) {
  a.add_option("--cluster-host", s.network.host,
               "Address at which actors listen and other nodes reach this one")
      ->group("Cluster");
  a.add_option("--cluster-port", s.network.port, port_help)
      ->check(within(0, 65535))
      ->group("Cluster");
  a.add_option("--cluster-secret-file", s.secret_file,
               "File whose first line all nodes of the cluster share")
      ->group("Cluster");
  a.add_flag("--insecure-cluster", s.network.insecure, "Listen beyond loopback without a secret")
      ->group("Cluster");
}

void add_http(CLI::App& a, http_settings& h) {
  a.add_option("--host", h.host, "Address of the HTTP server")->group("HTTP");
  a.add_option("--port", h.port, "Port of the HTTP server; 0: any free one")
      ->check(within(0, 65535))
      ->group("HTTP");
  a.add_option("--api-key", h.keys,
               "Key that requests must bring; may be repeated, in the environment with spaces "
               "between")
      ->delimiter(' ')
      ->group("HTTP");
  a.add_option("--api-key-file", h.key_file, "File with one key a line")->group("HTTP");
  a.add_option("--admin-key-file", h.admin_key_file,
               "File with one key a line: only these may drain nodes and clear or pin caches "
               "(default: whoever has a key)")
      ->group("HTTP");
  a.add_option("--allowed-origins", h.allowed_origins,
               "Origins whose pages may use the server from a browser (CORS), such as "
               "https://chat.example, with commas between, or a JSON list; *: all (default: none)")
      ->allow_extra_args(false)
      ->group("HTTP");
  a.add_option("--http-threads", h.threads, "Threads of the HTTP server")
      ->check(within(1, 64))
      ->group("HTTP");
  a.add_option("--max-connections", h.max_connections, "Connections at once; one more gets 503")
      ->check(within(1, 1 << 20))
      ->group("HTTP");
  a.add_option("--max-body-mib", h.max_body_mib, "Largest request body")
      ->check(within(1, 1024))
      ->group("HTTP");
  a.add_option("--request-timeout-s", h.request_timeout_s, "Longest time of one answer")
      ->check(within(1, 86400))
      ->group("HTTP");
  a.add_option("--sse-ping-s", h.sse_ping_s, "Silence of a stream after which a comment is sent")
      ->check(within(1, 3600))
      ->group("HTTP");
  a.add_flag("!--no-ui", h.web_ui, "No web page at /")->group("HTTP");
}

void add_tool_calls(CLI::App& a, model_choice& m) {
  a.add_option("--tool-call-parser", m.tool_call_parser,
               "How the model writes calls of tools: hermes, llama3_json, mistral, mistral_args, "
               "deepseek_v3, deepseek_v31, qwen3_coder; auto: as its chat template does; none: "
               "requests with tools are refused")
      ->check(CLI::IsMember([] {
        std::vector<std::string> names{"auto", "none"};
        for (const auto name : engine::structured::call_syntax_names) names.emplace_back(name);
        return names;
      }()))
      ->group("HTTP");
}

void add_store(CLI::App& a, actors::store_settings& s, std::string& memory,
               std::string& disk_size) {
  a.add_option("--kv-store-memory", memory,
               "Memory of a KV store, e.g. 4G (default: a fifth of what is free, at most 1G)")
      ->group("KV store");
  a.add_option("--kv-store-disk", s.disk,
               "Directory for a KV store's file, which survives restarts (default: memory only)")
      ->group("KV store");
  a.add_option("--kv-store-disk-size", disk_size, "Largest size of that file (default: 8G)")
      ->group("KV store");
  a.add_option_function<std::uint64_t>(
       "--kv-store-ttl-s",
       [&s](const std::uint64_t& seconds) { s.ttl = std::chrono::seconds(seconds); },
       "Blocks that nobody used for so long are forgotten; 0: only when room is needed")
      ->check(within(0, 1 << 30))
      ->group("KV store");
  a.add_option_function<std::int64_t>(
       "--kv-store-patience-ms",
       [&s](const std::int64_t& ms) { s.patience = std::chrono::milliseconds(ms); },
       "Nodes wait so long for each answer and each range of blocks of a KV store, even if "
       "computing would be faster (default: no longer than computing pays)")
      ->check(within(0, 600'000))
      ->group("KV store");
  a.add_option("--kv-store-replicas", s.replicas,
               "KV stores that nodes offer a prompt to; losing one then loses nothing")
      ->check(within(1, 16))
      ->capture_default_str()
      ->group("KV store");
}

void add_drain(CLI::App& a, std::uint32_t& seconds) {
  a.add_option("--drain-timeout-s", seconds, "After SIGTERM running requests have this long")
      ->check(within(0, 86400));
}

void add_ask(builder& b, ask_config& c, const char* name, const char* help,
             std::string& kv_memory) {
  auto* a = add_command(b.app, name, help);
  if (!c.chat) a->add_option("PROMPT", c.prompt, "What to ask")->required();
  add_url(*a, c.url, c.key, "Ask this server instead of a cluster in this process");
  a->add_option(
       "--model", c.model.path,
       "GGUF file to serve in this process; with --url the name of one of the server's models")
      ->group("Model");
  a->add_option("--system", c.system, "System message")->group("Generation");
  a->add_option("--temperature", c.temperature, "0: always the most likely token")
      ->check(within(0.0, 2.0))
      ->group("Generation");
  a->add_option("--top-p", c.top_p, "Of the most likely tokens, those that add up to this")
      ->check(within(0.0, 1.0))
      ->group("Generation");
  a->add_option("--max-tokens", c.max_tokens, "Longest answer (default: the rest of the context)")
      ->check(within(0, 1 << 24))
      ->group("Generation");
  a->add_option("--seed", c.seed, "Same seed, same answer (default: random)")
      ->check(within(std::int64_t{-1}, std::numeric_limits<std::int64_t>::max()))
      ->group("Generation");
  a->add_flag("--explain", c.explain, "Tell which actor did what, and how fast");
  add_runner(*a, c.node.runner);
  add_engine(*a, c.node.engine, kv_memory);
  add_log(*a, c.log);
}

void add_serve(builder& b) {
  auto* serve = add_command(
      b.app, "serve", "Serve a model: HTTP door, router, and nodes in processes of their own");
  add_model(*serve, b.serve.model, true);
  add_http(*serve, b.serve.http);
  add_tool_calls(*serve, b.serve.model);
  serve->add_option("--prefill", b.serve.prefill, "Prefill nodes to start")
      ->check(within(0, 64))
      ->group("Cluster");
  serve->add_option("--decode", b.serve.decode, "Decode nodes to start")
      ->check(within(0, 64))
      ->group("Cluster");
  serve->add_option("--kv-store", b.serve.kv_store, "KV stores to start")
      ->check(within(0, 64))
      ->group("Cluster");
  add_drafts(*serve, b.serve);
  serve->add_flag("--single-process", b.serve.single_process, "All roles in this process")
      ->group("Cluster");
  add_network(*serve, b.serve.node, "Port at which nodes join; 0: any free one");
  serve
      ->add_option("--max-queued", b.serve.max_queued,
                   "Requests that wait for a node; one more is refused with 503")
      ->check(within(1, 2048))
      ->group("Overload");
  serve
      ->add_option("--max-queue-wait-s", b.serve.max_queue_wait_s,
                   "A request that would wait longer is refused at once with 429")
      ->check(within(1, 86400))
      ->group("Overload");
  add_runner(*serve, b.serve.node.runner);
  add_engine(*serve, b.serve.node.engine, b.kv_memory[0]);
  add_store(*serve, b.serve.node.store, b.store_memory[0], b.store_disk_size[0]);
  add_drain(*serve, b.serve.drain_timeout_s);
  add_log(*serve, b.serve.log);
}

void add_node(builder& b) {
  auto* node = add_command(b.app, "node", "One role in this process, in the cluster of a server");
  add_model(*node, b.node.model, true);
  node->add_option("--role", b.node.role, "prefill, decode, kv-store or draft")->group("Cluster");
  node->add_option("--join", b.node.join, "HOST:PORT of the server's cluster port")
      ->group("Cluster");
  node->add_option("--name", b.node.name, "Name of this node (default: its role and process id)")
      ->group("Cluster");
  add_network(*node, b.node.node, "Port of this node's actor; 0: any free one");
  add_runner(*node, b.node.node.runner);
  add_engine(*node, b.node.node.engine, b.kv_memory[1]);
  add_store(*node, b.node.node.store, b.store_memory[1], b.store_disk_size[1]);
  add_drain(*node, b.node.drain_timeout_s);
  add_log(*node, b.node.log);
}

void add_launch(builder& b) {
  auto* launch =
      add_command(b.app, "launch", "Start and keep running what a cluster file says for this host");
  launch->add_option("FILE", b.launch.file, "cluster.toml")->required();
  launch->add_option("--as", b.launch.as,
                     "Name of this host in the file (default: found by its addresses)");
  launch->add_flag("--dry-run", b.launch.dry_run, "Print the commands only");
  add_log(*launch, b.launch.log);
}

}  // namespace

void build(builder& b) {
  b.run.chat = false;
  b.chat.chat = true;
  b.app.require_subcommand(1);
  b.app.option_defaults()->always_capture_default();
  b.app.set_help_flag("-h,--help", "Print this help");
  b.app.footer(
      "Flags are also environment variables (--max-model-len: TROUPE_MAX_MODEL_LEN) and keys of "
      "the TOML file\n"
      "of --config. Flags win over the environment, that over the file.\n"
      "Exit codes: 0 clean, 1 configuration, 2 model, 3 device.");

  add_serve(b);
  add_node(b);
  add_launch(b);
  add_ask(b, b.run, "run", "Ask one question", b.kv_memory[2]);
  add_ask(b, b.chat, "chat", "Talk to a model", b.kv_memory[3]);
  add_tools(b);
  add_model_makers(b);
  add_simulate(b);
  add_command(b.app, "version", "Print the version");
  add_bench(b);
}

}  // namespace troupe::api
