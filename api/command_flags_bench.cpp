#include "api/command_flags.hpp"

namespace troupe::api {

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
  s->add_option("--num-prompts", c.num_prompts)->check(within(1, 1'000'000));
  s->add_option("--request-rate", c.request_rate, "Requests a second, Poisson; 0: all at once")
      ->check(within(0.0, 1e6));
  s->add_option("--max-concurrency", c.max_concurrency, "Requests at once; 0: no limit (512)")
      ->check(within(0, 512));
  s->add_option("--input-len,--random-input-len", c.input_len, "Tokens of a prompt")
      ->check(within(1, 1 << 20));
  s->add_option("--output-len,--random-output-len", c.output_len, "Tokens of an answer")
      ->check(within(1, 1 << 20));
  s->add_option("--prefix-len,--random-prefix-len", c.prefix_len,
                "Tokens that all prompts begin with")
      ->check(within(0, 1 << 20));
  s->add_option("--seed", c.seed)
      ->check(within(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()));
  s->add_flag("--ignore-eos,!--no-ignore-eos", c.ignore_eos,
              "Answers have exactly the asked length");
  s->add_option("--timeout-s", c.timeout_s,
                "Requests tell the server that they want to be whole in this time; 0: they do not")
      ->check(within(0.0, 86400.0));
  s->add_option("--goodput", c.goodput,
                "Limits in milliseconds that a good request keeps: ttft:200 tpot:50 e2el:2000");
  s->add_option("--output-json", c.output, "File for all figures");

  auto* e =
      add_command(*bench, "engine", "Speed of one device without server: llama-bench's columns");
  auto& g = b.bench_engine;
  add_model(*e, g.model, false);
  add_runner(*e, g.runner);
  e->add_option("-p,--n-prompt", g.prompt, "Tokens of a prompt, several with commas")
      ->delimiter(',')
      ->check(within(0, 1 << 24));
  e->add_option("-n,--n-gen", g.generate, "Tokens to generate one by one")
      ->delimiter(',')
      ->check(within(0, 1 << 24));
  e->add_option("-d,--n-depth", g.depth,
                "Tokens that a sequence holds before it is measured, several with commas")
      ->delimiter(',')
      ->check(within(0, 1 << 24));
  e->add_option("--parallel", g.parallel, "Sequences decoded together; 0: skip")
      ->delimiter(',')
      ->check(within(0, 1 << 16));
  e->add_flag("--compare-speculation", g.speculation,
              "Compare decoding plain and with guesses on built-in texts, -n tokens at most; with "
              "--threads 1 by CPU time");
  e->add_option("--draft-model", g.draft_model,
                "With --compare-speculation: compare guesses of this model too");
  e->add_option("--draft-delay-ms", g.draft_delay_ms,
                "As if it were behind a link that takes so long each way")
      ->check(within(0, 1000));
  e->add_option(
      "--profile", g.profile,
      "Measure what troupe simulate wants to know, passes and pulls, and write this file");
  e->add_option("-r,--repetitions", g.repetitions)->check(within(1, 1000));
  e->add_option("-o,--output", g.output, "md or json")->check(CLI::IsMember({"md", "json"}));

  auto* k = add_command(*bench, "kv", "Speed of KV pulls between two processes");
  k->add_option("--block-bytes", b.bench_kv.block_bytes,
                "Sizes of a block with its fence, several with commas")
      ->delimiter(',')
      ->check(within(128, 1 << 30));
}

}  // namespace troupe::api
