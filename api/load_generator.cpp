#include "api/load_generator.hpp"

#include <atomic>
#include <cmath>
#include <mutex>
#include <random>
#include <thread>

#include "api/server_call.hpp"

namespace troupe::api {
namespace {

using clock = std::chrono::steady_clock;

struct target {
  url to;
  std::string model;
  std::uint32_t vocab_size = 0;  // 0: the server does not tell, so prompts are words
};

result<target> find_target(const bench_serve_config& c) {
  target t;
  TROUPE_TRY(t.to, parse_url(c.url));
  TROUPE_TRY(const auto text, call_server({c.url, c.key}, "/v1/models"));
  const auto models = nlohmann::json::parse(text, nullptr, false);
  if (!models.is_object() || !models.contains("data") || models["data"].empty())
    return fail(ec::io_error, c.url + " lists no models");
  for (const auto& m : models["data"])
    if (t.model.empty() || m.value("id", "") == c.model) {
      t.model = m.value("id", "");
      if (m.contains("meta") && m["meta"].is_object())
        t.vocab_size = m["meta"].value("vocab_size", 0u);
    }
  if (!c.model.empty()) t.model = c.model;
  return t;
}

// Random prompts, the same for the same seed. Ids where the server tells its vocabulary, so that lengths are exact.
nlohmann::json make_prompt(const bench_serve_config& c, const target& t, std::uint32_t number) {
  std::mt19937_64 shared(c.seed), own(c.seed * 1'000'003 + number + 1);
  const bool ids = t.vocab_size > 1000 && c.backend == "openai";
  nlohmann::json list = nlohmann::json::array();
  std::string words;
  for (std::uint32_t i = 0; i < c.prefix_len + c.input_len; ++i) {
    auto& random = i < c.prefix_len ? shared : own;
    // The first few hundred ids are special tokens and bytes in most vocabularies.
    if (ids)
      list.push_back(500 + random() % (t.vocab_size - 1000));
    else
      words += static_cast<char>('a' + random() % 26), words += ' ';
  }
  if (ids) return list;
  return words;
}

completion_call make_call(const bench_serve_config& c, const target& t, std::uint32_t number) {
  completion_call call;
  call.to = t.to;
  call.key = c.key;
  call.body = {{"model", t.model}, {"temperature", 0}, {"max_tokens", c.output_len}};
  if (c.timeout_s > 0) call.body["timeout_s"] = c.timeout_s;
  if (c.ignore_eos) call.body["ignore_eos"] = true;
  if (c.backend == "openai") {
    call.path = "/v1/completions";
    call.body["prompt"] = make_prompt(c, t, number);
  } else {
    call.body["messages"] = {{{"role", "user"}, {"content", make_prompt(c, t, number)}}};
  }
  return call;
}

// Seconds after the start at which each request is sent.
std::vector<double> schedule(const bench_serve_config& c) {
  std::mt19937_64 random(c.seed + 77);
  std::exponential_distribution<double> gap(c.request_rate > 0 ? c.request_rate : 1);
  std::vector<double> at(c.num_prompts, 0.0);
  if (c.request_rate > 0)
    for (std::uint32_t i = 1; i < c.num_prompts; ++i) at[i] = at[i - 1] + gap(random);
  return at;
}

nlohmann::ordered_json spread(std::vector<double> seconds) {
  double sum = 0;
  for (double& s : seconds) sum += s *= 1e3;
  nlohmann::ordered_json o;
  o["mean"] = seconds.empty() ? 0 : sum / static_cast<double>(seconds.size());
  o["median"] = percentile(seconds, 0.5);
  o["p99"] = percentile(std::move(seconds), 0.99);
  return o;
}

}  // namespace

result<load_result> generate_load(const bench_serve_config& c) {
  TROUPE_TRY(const target t, find_target(c));
  const auto at = schedule(c);
  const auto start = clock::now();
  load_result out;
  std::mutex mutex;
  std::atomic<std::uint32_t> next = 0;
  const std::uint32_t limit = c.max_concurrency > 0 ? c.max_concurrency : 512;
  std::vector<std::thread> workers;
  for (std::uint32_t w = 0; w < std::min(limit, c.num_prompts); ++w)
    workers.emplace_back([&] {
      for (std::uint32_t i = next++; i < c.num_prompts; i = next++) {
        const auto call = make_call(c, t, i);
        std::this_thread::sleep_until(start + std::chrono::duration_cast<clock::duration>(
                                                  std::chrono::duration<double>(at[i])));
        auto answer = stream_completion(call);
        std::lock_guard lock(mutex);
        if (answer)
          out.answers.push_back(std::move(*answer));
        else
          out.failures.push_back(answer.error().detail);
      }
    });
  for (auto& w : workers) w.join();
  out.seconds = std::chrono::duration<double>(clock::now() - start).count();
  return out;
}

result<goodput_limits> parse_goodput(const std::vector<std::string>& words) {
  goodput_limits limits;
  for (const auto& word : words) {
    const auto colon = word.find(':');
    const std::string name = word.substr(0, colon);
    double* to = name == "ttft"   ? &limits.ttft
                 : name == "tpot" ? &limits.tpot
                 : name == "e2el" ? &limits.e2el
                                  : nullptr;
    char* end = nullptr;
    const double value =
        colon == std::string::npos ? 0 : std::strtod(word.c_str() + colon + 1, &end);
    if (!to || !end || *end != '\0' || !(value > 0))
      return fail(ec::invalid_argument,
                  "--goodput '" + word + "': use ttft:MS, tpot:MS or e2el:MS");
    *to = value;
    limits.any = true;
  }
  return limits;
}

double percentile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(rank);
  const auto above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (rank - std::floor(rank));
}

nlohmann::ordered_json summarize(const load_result& r, const goodput_limits& limits) {
  std::vector<double> ttft, tpot, itl, e2el;
  std::uint64_t input = 0, output = 0, good = 0;
  for (const auto& a : r.answers) {
    input += a.prompt_tokens;
    output += a.completion_tokens;
    ttft.push_back(a.ttft());
    e2el.push_back(a.e2el());
    if (a.completion_tokens > 1) tpot.push_back(a.tpot());
    for (std::size_t i = 1; i < a.arrivals.size(); ++i)
      itl.push_back(std::chrono::duration<double>(a.arrivals[i] - a.arrivals[i - 1]).count());
    good += a.ttft() * 1e3 <= limits.ttft && a.tpot() * 1e3 <= limits.tpot &&
            a.e2el() * 1e3 <= limits.e2el;
  }
  const double s = r.seconds > 0 ? r.seconds : 1;
  nlohmann::ordered_json o;
  o["completed"] = r.answers.size();
  o["failed"] = r.failures.size();
  o["duration_s"] = r.seconds;
  o["total_input_tokens"] = input;
  o["total_output_tokens"] = output;
  o["request_throughput"] = static_cast<double>(r.answers.size()) / s;
  if (limits.any) o["request_goodput"] = static_cast<double>(good) / s;
  o["output_throughput"] = static_cast<double>(output) / s;
  o["total_token_throughput"] = static_cast<double>(input + output) / s;
  o["ttft_ms"] = spread(std::move(ttft));
  o["tpot_ms"] = spread(std::move(tpot));
  o["itl_ms"] = spread(std::move(itl));
  o["e2el_ms"] = spread(std::move(e2el));
  return o;
}

std::string report(const nlohmann::ordered_json& s) {
  std::string out = "============ Serving Benchmark Result ============\n";
  auto line = [&](const std::string& name, double value, int digits) {
    char text[96];
    std::snprintf(text, sizeof text, "%-40s%10.*f\n", (name + ":").c_str(), digits, value);
    out += text;
  };
  line("Successful requests", s["completed"], 0);
  line("Failed requests", s["failed"], 0);
  line("Benchmark duration (s)", s["duration_s"], 2);
  line("Total input tokens", s["total_input_tokens"], 0);
  line("Total generated tokens", s["total_output_tokens"], 0);
  line("Request throughput (req/s)", s["request_throughput"], 2);
  if (s.contains("request_goodput")) line("Request goodput (req/s)", s["request_goodput"], 2);
  line("Output token throughput (tok/s)", s["output_throughput"], 2);
  line("Total token throughput (tok/s)", s["total_token_throughput"], 2);
  const std::pair<const char*, const char*> groups[] = {
      {"ttft_ms", "TTFT"}, {"tpot_ms", "TPOT"}, {"itl_ms", "ITL"}, {"e2el_ms", "E2EL"}};
  for (const auto& [key, name] : groups) {
    out += std::string("--------------------- ") + name + " ---------------------\n";
    line(std::string("Mean ") + name + " (ms)", s[key]["mean"], 2);
    line(std::string("Median ") + name + " (ms)", s[key]["median"], 2);
    line(std::string("P99 ") + name + " (ms)", s[key]["p99"], 2);
  }
  return out + "==================================================\n";
}

}  // namespace troupe::api
