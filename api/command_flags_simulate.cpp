#include "api/command_flags.hpp"

namespace troupe::api {
namespace {

void add_nodes(CLI::App& a, simulate_config& c) {
  a.add_option("--nodes", c.nodes, "Nodes that all decode and read their own prompts")
      ->check(within(1, 100'000))
      ->group("Cluster");
  a.add_flag("--find-ratio", c.find_ratio,
             "Divide --nodes into prefill and decode nodes so that they serve the trace best")
      ->group("Cluster");
  a.add_option("--prefill", c.plan.num_prefill, "Prefill nodes")
      ->check(within(0, 100'000))
      ->group("Cluster");
  a.add_option("--decode", c.decode_given, "Decode nodes (default: 1)")
      ->check(within(1, 100'000))
      ->group("Cluster");
  a.add_option("--profile", c.profile, "How fast a node is: of troupe bench engine --profile")
      ->required()
      ->group("Cluster");
  a.add_option("--prefill-profile", c.prefill_profile,
               "How fast a prefill node is, where it is another device")
      ->group("Cluster");
}

void add_trace(CLI::App& a, simulate_config& c) {
  a.add_option("--trace", c.trace, "Requests, one JSON object a line")->required()->group("Trace");
  a.add_option("--from-s", c.from_s, "Leave out what arrives before")
      ->check(within(0.0, 1e9))
      ->group("Trace");
  a.add_option_function<double>(
       "--to-s", [&c](const double& s) { c.to_s = s; }, "Leave out what arrives then or later")
      ->check(within(1e-3, 1e9))
      ->group("Trace");
  a.add_option("--load", c.plan.load,
               "How often each request comes; what comes again has other tokens")
      ->check(within(1e-6, 1e6))
      ->group("Trace");
  a.add_option("--jitter-ms", c.plan.jitter,
               "Arrivals are later by at most this, by chance: for traces with coarse times")
      ->check(within(0, 86'400'000))
      ->group("Trace");
  a.add_option("--seed", c.plan.seed, "Of that chance")
      ->check(within(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()))
      ->group("Trace");
  a.add_option("--hash-tokens", c.plan.hash_tokens, "Tokens that one of hash_ids stands for")
      ->check(within(1, 1 << 20))
      ->group("Trace");
}

void add_goal(CLI::App& a, simulate_config& c) {
  const auto limit = [&a](const char* flag, double& to, const char* help) {
    a.add_option_function<double>(
         flag, [&to](const double& ms) { to = ms / 1000; }, help)
        ->check(within(1e-3, 1e9))
        ->group("Goal");
  };
  limit("--ttft-ms", c.plan.ttft_limit_seconds, "A good request has its first token by then");
  limit("--itl-ms", c.plan.itl_limit_seconds,
        "A good request has at most this between its tokens, in the mean");
}

void add_limits(CLI::App& a, simulate_config& c) {
  auto& e = c.plan.engine;
  a.add_option("--max-model-len", e.max_model_len, "Longest prompt and answer together")
      ->check(within(16, 1 << 24))
      ->group("Limits");
  a.add_option("--kv-blocks", e.num_kv_blocks, "KV blocks of a node (default: the profile's)")
      ->check(within(4, 1 << 24))
      ->group("Limits");
  add_step_sizes(a, e, 1024, "Limits");
  a.add_option("--max-waiting", e.max_waiting, "Waiting requests of a node")
      ->check(within(0, 1 << 20))
      ->group("Limits");
  a.add_option("--inter-token-target-ms", e.inter_token_target,
               "With decodes running, prefill chunks keep steps within this")
      ->check(within(1, 60'000))
      ->group("Limits");
  a.add_flag("!--no-prefix-caching", e.prefix_caching, "Compute every prompt anew")
      ->group("Limits");
  a.add_option("--max-requests", c.plan.max_requests, "Requests that the gateway follows at once")
      ->check(within(1, 1 << 24))
      ->group("Limits");
  a.add_option("--max-queued", c.plan.admission.max_waiting, "Requests that wait for a node")
      ->check(within(1, 1 << 24))
      ->group("Limits");
  a.add_option_function<std::uint32_t>(
       "--max-queue-wait-s",
       [&c](const std::uint32_t& s) { c.plan.admission.max_wait = std::chrono::seconds(s); },
       "A request that would wait longer is refused at once (default: 30)")
      ->check(within(1, 86400))
      ->group("Limits");
  a.add_option_function<std::uint32_t>(
       "--timeout-s", [&c](const std::uint32_t& s) { c.plan.timeout = std::chrono::seconds(s); },
       "Longest time of one answer (default: 600)")
      ->check(within(1, 86400))
      ->group("Limits");
}

}  // namespace

void add_simulate(builder& b) {
  auto* a = b.app.add_subcommand(
      "simulate", "Plan capacity: what nodes that need not exist would do with a trace");
  a->fallthrough(false);
  add_trace(*a, b.simulate);
  add_nodes(*a, b.simulate);
  add_goal(*a, b.simulate);
  add_limits(*a, b.simulate);
  a->add_flag("--json", b.simulate.json);
}

}  // namespace troupe::api
