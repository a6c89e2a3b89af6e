// Loads an OpenAI-compatible server and reports what `vllm bench serve` reports: TTFT, TPOT, ITL and E2EL with mean,
// median and p99, throughput, goodput. Requests run on threads that mostly wait.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "api/completion_client.hpp"
#include "api/config.hpp"

namespace troupe::api {

struct load_result {
  std::vector<streamed_answer> answers;
  std::vector<std::string> failures;  // one a failed request
  double seconds = 0;
};

result<load_result> generate_load(const bench_serve_config& c);

// Limits in milliseconds; what is not limited is infinite.
struct goodput_limits {
  double ttft = 1e300, tpot = 1e300, e2el = 1e300;
  bool any = false;
};
result<goodput_limits> parse_goodput(const std::vector<std::string>& words);

// All figures, times in milliseconds.
nlohmann::ordered_json summarize(const load_result& r, const goodput_limits& limits);
std::string report(const nlohmann::ordered_json& summary);

// q in [0, 1], linear between neighbours; 0 for no values.
double percentile(std::vector<double> values, double q);

}  // namespace troupe::api
