// Capacity planning: what a cluster that need not exist would do with a trace. `troupe simulate` is the door.
//
// The plain objects that decide in the product decide here too: admission_queue, route_policy, and in every node a whole
// engine (scheduler, block pool, prefix cache, sampler). Only the device (timed_runner) and the links are replaced, by
// times from a profile; virtual time takes the place of threads, and plain code (planner.hpp) that of the actors around
// them, whose dozens of copies of a membership of 1,000 nodes would take longer than the hour that is planned.
//
// What is not planned: lost nodes, KV stores, speculation. One thread; one seed is one result.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "actors/admission.hpp"
#include "actors/capacity/profile.hpp"
#include "actors/cluster.hpp"
#include "base/result.hpp"

namespace troupe::actors {

struct trace_request {
  double arrival_seconds = 0;
  std::uint32_t input_length = 0, output_length = 0;
  // Of consecutive pieces of the prompt: equal ids, equal tokens. What they do not cover is like nothing else.
  std::vector<std::uint64_t> hash_ids;
};

struct plan_options {
  std::uint32_t num_prefill = 0, num_decode = 1;
  device_profile prefill, decode;
  engine_settings engine;
  admission_options admission;
  std::uint32_t max_requests = 2048;  // that the gateway follows at once
  std::chrono::milliseconds timeout{600'000};
  std::uint32_t hash_tokens = 512;  // of the prompt that one of hash_ids stands for
  double load = 1;  // each request comes so often; what comes again has other tokens
  std::chrono::milliseconds jitter{0};  // arrivals are later by at most this, by chance
  std::uint64_t seed = 1;
  // A request is good if it is whole, its first token came in time, and the mean time between its tokens is within this.
  // 0: any.
  double ttft_limit_seconds = 0, itl_limit_seconds = 0;
};

struct distribution {
  std::uint64_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};

distribution summarize(std::vector<double> values);

struct role_use {
  std::uint32_t nodes = 0;
  double busy = 0;                       // share of the span in which a node computed, mean
  double least_busy = 0, most_busy = 0;  // the same of single nodes
  std::uint64_t steps = 0, prompt_tokens = 0, output_tokens = 0;  // computed
  std::uint64_t preemptions = 0, evictions = 0;
};

struct plan_report {
  std::uint64_t arrivals = 0, finished = 0, good = 0;
  std::map<std::string, std::uint64_t> refused;  // by code; the sum and `finished` are the arrivals
  double span_seconds = 0;                       // from the first arrival to the last end
  double goodput = 0, finished_per_second = 0, output_tokens_per_second = 0;
  distribution ttft, itl, e2e;                         // seconds; itl: every gap between tokens
  std::uint64_t prompt_tokens = 0, output_tokens = 0;  // of finished requests
  double cached_share = 0;  // of prompt tokens: found in the prefix cache of who read the prompt
  double transferred_share = 0;                 // of prompt tokens: pulled by the node that decoded
  std::map<std::string, std::uint64_t> routes;  // reasons, as in troupe_route_decisions_total
  std::uint64_t leases_expired = 0, pulls_late = 0;
  role_use prefill, decode;
  std::uint64_t events = 0;
};

// ec::invalid_argument: options that contradict themselves or the profile.
result<plan_report> plan_capacity(const std::vector<trace_request>& trace,
                                  const plan_options& options);

struct ratio_point {
  std::uint32_t prefill = 0, decode = 0;
  plan_report report;
};
// Splits of `nodes` into prefill and decode nodes, ascending, and the index of the best: most good requests a second,
// and of those within 0.5 % of it the one whose answers are whole soonest. All splits of up to 9 nodes; of more a
// grid, refined around its best. `told` hears of each as it is done.
struct ratio_search {
  std::vector<ratio_point> points;
  std::size_t best = 0;
};
result<ratio_search> find_ratio(const std::vector<trace_request>& trace, plan_options options,
                                std::uint32_t nodes,
                                const std::function<void(const ratio_point&)>& told = {});

}  // namespace troupe::actors
