#include "api/command_flags.hpp"

#include "engine/structured/tool_calls.hpp"
#include "model/synthetic.hpp"

namespace troupe::api {
namespace {

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

void add_log(CLI::App& a, log_options& log) {
  a.add_option("--log-level", log.level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->group("Log");
  a.add_option("--log-format", log.format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->group("Log");
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
      ->check(CLI::Range(0.01, 1.0))
      ->group("Device");
  a.add_option("--threads", r.num_threads,
               "Threads of one node on the host device (default: its cores)")
      ->check(CLI::Range(1, 1024))
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

void add_engine(CLI::App& a, actors::engine_settings& e, std::string& kv_memory) {
  a.add_option("--max-model-len", e.max_model_len,
               "Longest prompt and answer together (default: the model's context)")
      ->check(CLI::Range(16, 1 << 24))
      ->group("Engine");
  a.add_option("--kv-memory", kv_memory,
               "Memory for KV blocks, e.g. 512M (default: a fifth of what is free, at most 1G)")
      ->group("Engine");
  a.add_option("--kv-blocks", e.num_kv_blocks, "Number of KV blocks, instead of --kv-memory")
      ->check(CLI::Range(4, 1 << 24))
      ->group("Engine");
  a.add_option("--max-num-seqs", e.max_num_seqs, "Sequences that run at once on a node")
      ->check(CLI::Range(1, 256))
      ->group("Engine");
  a.add_option("--max-num-batched-tokens", e.max_num_batched_tokens, "Tokens of one step")
      ->check(CLI::Range(16, 1 << 16))
      ->group("Engine");
  a.add_option("--max-prefill-chunk", e.max_prefill_chunk, "Tokens of one prompt in one step")
      ->check(CLI::Range(16, 1 << 16))
      ->group("Engine");
  a.add_option("--max-waiting", e.max_waiting,
               "Waiting requests of a node; one more is refused with 503")
      ->check(CLI::Range(0, 1 << 20))
      ->group("Engine");
  a.add_option("--inter-token-target-ms", e.inter_token_target,
               "With decodes running, prefill chunks keep steps within this")
      ->group("Engine");
  a.add_option("--lease-ms", e.lease, "How long a prefill node holds blocks for their reader")
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
      ->check(CLI::Range(1, 64))
      ->group("Engine");
  a.add_option_function<std::uint64_t>(
       "--speculative-history",
       [&e](std::uint64_t mib) { e.speculation.history_bytes = mib << 20; },
       "MiB of recent answers that a decode node keeps to guess from, for requests of the same API "
       "key and cache_salt only; 0: none")
      ->check(CLI::Range(0, 1 << 16))
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
      ->check(CLI::Range(0, 65535))
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
      ->check(CLI::Range(0, 65535))
      ->group("HTTP");
  a.add_option("--api-key", h.keys, "Key that requests must bring; may be repeated")->group("HTTP");
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
      ->check(CLI::Range(1, 64))
      ->group("HTTP");
  a.add_option("--max-connections", h.max_connections, "Connections at once; one more gets 503")
      ->check(CLI::Range(1, 1 << 20))
      ->group("HTTP");
  a.add_option("--max-body-mib", h.max_body_mib, "Largest request body")
      ->check(CLI::Range(1, 1024))
      ->group("HTTP");
  a.add_option("--request-timeout-s", h.request_timeout_s, "Longest time of one answer")
      ->check(CLI::Range(1, 86400))
      ->group("HTTP");
  a.add_option("--sse-ping-s", h.sse_ping_s, "Silence of a stream after which a comment is sent")
      ->check(CLI::Range(1, 3600))
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
      ->check(CLI::Range(0, 1 << 30))
      ->group("KV store");
  a.add_option("--kv-store-replicas", s.replicas,
               "KV stores that nodes offer a prompt to; losing one then loses nothing")
      ->check(CLI::Range(1, 16))
      ->capture_default_str()
      ->group("KV store");
}

void add_drain(CLI::App& a, std::uint32_t& seconds) {
  a.add_option("--drain-timeout-s", seconds, "After SIGTERM running requests have this long")
      ->check(CLI::Range(0, 86400));
}

void add_url(CLI::App& a, std::string& url, std::string& key, const char* help) {
  a.add_option("--url", url, help)->group("Server");
  a.add_option("--api-key", key, "Key of the server")->group("Server");
}

// By its own variable: TROUPE_MODEL is the file that a server serves.
void add_model_name(CLI::App& a, std::string& name) {
  a.add_option("--model", name, "Model name (default: the first that the server lists)")
      ->envname("TROUPE_MODEL_NAME");
}

CLI::App* add_command(CLI::App& parent, const char* name, const char* help) {
  auto* a = parent.add_subcommand(name, help);
  a->fallthrough(false);
  return a;
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
      ->check(CLI::Range(0.0, 2.0))
      ->group("Generation");
  a->add_option("--top-p", c.top_p, "Of the most likely tokens, those that add up to this")
      ->check(CLI::Range(0.0, 1.0))
      ->group("Generation");
  a->add_option("--max-tokens", c.max_tokens, "Longest answer (default: the rest of the context)")
      ->group("Generation");
  a->add_option("--seed", c.seed, "Same seed, same answer (default: random)")->group("Generation");
  a->add_flag("--explain", c.explain, "Tell which actor did what, and how fast");
  add_runner(*a, c.node.runner);
  add_engine(*a, c.node.engine, kv_memory);
  add_log(*a, c.log);
}

void add_bench(builder& b) {
  auto* bench = add_command(b.app, "bench", "Measure a server, the engine, or KV transfer");
  bench->require_subcommand(1);
  auto* s = add_command(*bench, "serve",
                        "Load an OpenAI-compatible server and report latencies and throughput");
  auto& c = b.bench_serve;
  add_url(*s, c.url, c.key, "Server to load");
  add_model_name(*s, c.model);
  s->add_option("--backend", c.backend, "openai (/v1/completions) or openai-chat")
      ->check(CLI::IsMember({"openai", "openai-chat"}));
  s->add_option("--num-prompts", c.num_prompts)->check(CLI::Range(1, 1'000'000));
  s->add_option("--request-rate", c.request_rate, "Requests a second, Poisson; 0: all at once")
      ->check(CLI::NonNegativeNumber);
  s->add_option("--max-concurrency", c.max_concurrency, "Requests at once; 0: no limit (512)")
      ->check(CLI::Range(0, 512));
  s->add_option("--input-len,--random-input-len", c.input_len, "Tokens of a prompt")
      ->check(CLI::Range(1, 1 << 20));
  s->add_option("--output-len,--random-output-len", c.output_len, "Tokens of an answer")
      ->check(CLI::Range(1, 1 << 20));
  s->add_option("--prefix-len,--random-prefix-len", c.prefix_len,
                "Tokens that all prompts begin with")
      ->check(CLI::Range(0, 1 << 20));
  s->add_option("--seed", c.seed);
  s->add_flag("--ignore-eos,!--no-ignore-eos", c.ignore_eos,
              "Answers have exactly the asked length");
  s->add_option("--timeout-s", c.timeout_s,
                "Requests tell the server that they want to be whole in this time; 0: they do not")
      ->check(CLI::Range(0.0, 86400.0));
  s->add_option("--goodput", c.goodput,
                "Limits in milliseconds that a good request keeps: ttft:200 tpot:50 e2el:2000");
  s->add_option("--output-json", c.output, "File for all figures");

  auto* e =
      add_command(*bench, "engine", "Speed of one device without server: llama-bench's columns");
  auto& g = b.bench_engine;
  add_model(*e, g.model, false);
  add_runner(*e, g.runner);
  e->add_option("-p,--n-prompt", g.prompt, "Tokens of a prompt, several with commas")
      ->delimiter(',');
  e->add_option("-n,--n-gen", g.generate, "Tokens to generate one by one")->delimiter(',');
  e->add_option("-d,--n-depth", g.depth,
                "Tokens that a sequence holds before it is measured, several with commas")
      ->delimiter(',');
  e->add_option("--parallel", g.parallel, "Sequences decoded together; 0: skip")->delimiter(',');
  e->add_flag("--compare-speculation", g.speculation,
              "Compare decoding plain and with guesses on built-in texts, -n tokens at most; with "
              "--threads 1 by CPU time");
  e->add_option("--draft-model", g.draft_model,
                "With --compare-speculation: compare guesses of this model too");
  e->add_option("--draft-delay-ms", g.draft_delay_ms,
                "As if it were behind a link that takes so long each way")
      ->check(CLI::Range(0, 1000));
  e->add_option(
      "--profile", g.profile,
      "Measure what troupe simulate wants to know, passes and pulls, and write this file");
  e->add_option("-r,--repetitions", g.repetitions)->check(CLI::Range(1, 1000));
  e->add_option("-o,--output", g.output, "md or json")->check(CLI::IsMember({"md", "json"}));

  auto* k = add_command(*bench, "kv", "Speed of KV pulls between two processes");
  k->add_option("--block-bytes", b.bench_kv.block_bytes,
                "Sizes of a block with its fence, several with commas")
      ->delimiter(',');
}

void add_serve(builder& b) {
  auto* serve = add_command(
      b.app, "serve", "Serve a model: HTTP door, router, and nodes in processes of their own");
  add_model(*serve, b.serve.model, true);
  add_http(*serve, b.serve.http);
  add_tool_calls(*serve, b.serve.model);
  serve->add_option("--prefill", b.serve.prefill, "Prefill nodes to start")
      ->check(CLI::Range(0, 64))
      ->group("Cluster");
  serve->add_option("--decode", b.serve.decode, "Decode nodes to start")
      ->check(CLI::Range(0, 64))
      ->group("Cluster");
  serve->add_option("--kv-store", b.serve.kv_store, "KV stores to start")
      ->check(CLI::Range(0, 64))
      ->group("Cluster");
  add_drafts(*serve, b.serve);
  serve->add_flag("--single-process", b.serve.single_process, "All roles in this process")
      ->group("Cluster");
  add_network(*serve, b.serve.node, "Port at which nodes join; 0: any free one");
  serve
      ->add_option("--max-queued", b.serve.max_queued,
                   "Requests that wait for a node; one more is refused with 503")
      ->check(CLI::Range(1, 2048))
      ->group("Overload");
  serve
      ->add_option("--max-queue-wait-s", b.serve.max_queue_wait_s,
                   "A request that would wait longer is refused at once with 429")
      ->check(CLI::Range(1, 86400))
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

// The commands that only read and print.
void add_readers(builder& b) {
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
          ->check(CLI::Range(0, 366 * 86'400))
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
      ->check(CLI::Range(1, 86400));
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
  add_readers(b);
  add_model_makers(b);
  add_simulate(b);
  add_command(b.app, "version", "Print the version");
  add_bench(b);
}

}  // namespace troupe::api
