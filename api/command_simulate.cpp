// Plans capacity: replays a trace on nodes that need not exist (actors/capacity).
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "api/capacity_files.hpp"
#include "api/commands.hpp"

namespace troupe::api {
namespace {

using actors::distribution;
using actors::plan_report;
using actors::role_use;
using nlohmann::ordered_json;

ordered_json to_json(const distribution& d) {
  return {{"count", d.count}, {"mean", d.mean}, {"p50", d.p50},
          {"p90", d.p90},     {"p99", d.p99},   {"max", d.max}};
}

ordered_json to_json(const role_use& u) {
  return {{"nodes", u.nodes},
          {"busy", u.busy},
          {"least_busy", u.least_busy},
          {"most_busy", u.most_busy},
          {"steps", u.steps},
          {"prompt_tokens", u.prompt_tokens},
          {"output_tokens", u.output_tokens},
          {"preemptions", u.preemptions},
          {"evictions", u.evictions}};
}

ordered_json to_json(const plan_report& r) {
  return {{"arrivals", r.arrivals},
          {"finished", r.finished},
          {"good", r.good},
          {"refused", r.refused},
          {"span_seconds", r.span_seconds},
          {"goodput", r.goodput},
          {"finished_per_second", r.finished_per_second},
          {"output_tokens_per_second", r.output_tokens_per_second},
          {"ttft", to_json(r.ttft)},
          {"itl", to_json(r.itl)},
          {"e2e", to_json(r.e2e)},
          {"prompt_tokens", r.prompt_tokens},
          {"output_tokens", r.output_tokens},
          {"cached_share", r.cached_share},
          {"transferred_share", r.transferred_share},
          {"routes", r.routes},
          {"leases_expired", r.leases_expired},
          {"pulls_late", r.pulls_late},
          {"prefill", to_json(r.prefill)},
          {"decode", to_json(r.decode)},
          {"events", r.events}};
}

std::string counts(const std::map<std::string, std::uint64_t>& all) {
  std::string text;
  for (const auto& [name, count] : all)
    text += (text.empty() ? "" : ", ") + name + " " + std::to_string(count);
  return text.empty() ? "none" : text;
}

void print_row(const char* name, const distribution& d) {
  std::printf("%-26s %10.1f %10.1f %10.1f %10.1f %10.1f\n", name, d.mean * 1e3, d.p50 * 1e3,
              d.p90 * 1e3, d.p99 * 1e3, d.max * 1e3);
}

void print_use(const char* name, const role_use& u) {
  if (u.nodes == 0) return;
  std::printf(
      "%-26s %u: busy %.1f %% (%.1f to %.1f %%), %llu prompt and %llu output tokens computed, "
      "%llu preemptions\n",
      name, u.nodes, u.busy * 100, u.least_busy * 100, u.most_busy * 100,
      static_cast<unsigned long long>(u.prompt_tokens),
      static_cast<unsigned long long>(u.output_tokens),
      static_cast<unsigned long long>(u.preemptions));
}

void print(const plan_report& r) {
  const auto n = [](std::uint64_t x) { return static_cast<unsigned long long>(x); };
  std::printf("%-26s %llu arrived, %llu whole, %llu good; refused: %s\n", "requests", n(r.arrivals),
              n(r.finished), n(r.good), counts(r.refused).c_str());
  std::printf("%-26s %.3f requests/s, %.3f of them good; %.1f output tokens/s over %.1f s\n",
              "throughput", r.finished_per_second, r.goodput, r.output_tokens_per_second,
              r.span_seconds);
  std::printf("%-26s %10s %10s %10s %10s %10s\n", "milliseconds", "mean", "p50", "p90", "p99",
              "max");
  print_row("time to first token", r.ttft);
  print_row("between tokens", r.itl);
  print_row("whole answer", r.e2e);
  print_use("prefill nodes", r.prefill);
  print_use("decode nodes", r.decode);
  std::printf("%-26s %.1f %% of prompt tokens from the prefix cache, %.1f %% pulled\n", "prompts",
              r.cached_share * 100, r.transferred_share * 100);
  std::printf("%-26s %s\n", "routes", counts(r.routes).c_str());
  if (r.leases_expired + r.pulls_late > 0)
    std::printf("%-26s %llu leases expired, %llu pulls were late\n", "trouble", n(r.leases_expired),
                n(r.pulls_late));
}

result<actors::plan_options> options_of(const simulate_config& c) {
  actors::plan_options o = c.plan;
  TROUPE_TRY(o.decode, read_profile(c.profile));
  o.prefill = o.decode;
  if (!c.prefill_profile.empty()) {
    TROUPE_TRY(o.prefill, read_profile(c.prefill_profile));
  }
  if (c.plan.engine.num_kv_blocks > 0)
    o.prefill.num_blocks = o.decode.num_blocks = c.plan.engine.num_kv_blocks;
  if (c.nodes > 0 && c.plan.num_prefill + c.decode_given > 0)
    return fail(ec::invalid_argument,
                "--nodes is for nodes that all decode, or for --find-ratio; say either it or "
                "--prefill and --decode");
  if (c.find_ratio && c.nodes == 0)
    return fail(ec::invalid_argument, "--find-ratio needs --nodes: how many there are to divide");
  if (c.nodes > 0) {
    o.num_prefill = 0;
    o.num_decode = c.nodes;
  } else if (c.decode_given > 0) {
    o.num_decode = c.decode_given;
  }
  return o;
}

int search(const simulate_config& c, const std::vector<actors::trace_request>& trace,
           const actors::plan_options& o) {
  if (!c.json)
    std::printf("%8s %8s %12s %12s %12s %12s %10s %10s\n", "prefill", "decode", "good/s", "whole/s",
                "TTFT p90 ms", "ITL p90 ms", "P busy %", "D busy %");
  const auto told = [&](const actors::ratio_point& p) {
    if (c.json) return;
    std::printf("%8u %8u %12.3f %12.3f %12.1f %12.2f %10.1f %10.1f\n", p.prefill, p.decode,
                p.report.goodput, p.report.finished_per_second, p.report.ttft.p90 * 1e3,
                p.report.itl.p90 * 1e3, p.report.prefill.busy * 100, p.report.decode.busy * 100);
    std::fflush(stdout);
  };
  auto found = find_ratio(trace, o, c.nodes, told);
  if (!found) return complain(found.error(), exit_configuration);
  const auto& best = found->points[found->best];
  if (c.json) {
    auto all = ordered_json::array();
    for (const auto& p : found->points)
      all.push_back({{"prefill", p.prefill}, {"decode", p.decode}, {"report", to_json(p.report)}});
    std::printf("%s\n", ordered_json{{"best", {{"prefill", best.prefill}, {"decode", best.decode}}},
                                     {"points", all}}
                            .dump(2)
                            .c_str());
    return exit_clean;
  }
  std::printf("\nbest: %u prefill, %u decode\n", best.prefill, best.decode);
  print(best.report);
  return exit_clean;
}

}  // namespace

int run_command(const simulate_config& c) {
  auto options = options_of(c);
  if (!options) return complain(options.error(), exit_configuration);
  const auto trace = read_trace(c.trace, c.from_s, c.to_s);
  if (!trace) return complain(trace.error(), exit_configuration);
  if (trace->empty())
    return complain({ec::invalid_argument, "the trace has no request in this time"},
                    exit_configuration);
  const auto begin = std::chrono::steady_clock::now();
  if (c.find_ratio) return search(c, *trace, *options);
  const auto report = plan_capacity(*trace, *options);
  if (!report) return complain(report.error(), exit_configuration);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  if (c.json) {
    std::printf("%s\n", to_json(*report).dump(2).c_str());
  } else {
    print(*report);
    std::printf("%-26s %llu events in %.1f s\n", "simulated",
                static_cast<unsigned long long>(report->events), took.count());
  }
  return exit_clean;
}

}  // namespace troupe::api
