#include <cstdio>
#include <nlohmann/json.hpp>

#include "actors/engine_settings.hpp"
#include "api/commands.hpp"
#include "api/engine_bench.hpp"
#include "api/profile_bench.hpp"
#include "api/progress.hpp"
#include "api/serving.hpp"
#include "api/speculation_bench.hpp"
#include "model/inspect.hpp"

namespace troupe::api {
namespace {

std::vector<engine_test> tests_of(const bench_engine_config& c) {
  std::vector<engine_test> tests;
  for (auto d : c.depth) {
    for (auto n : c.prompt)
      if (n > 0) tests.push_back({n, 0, 1, d});
    for (auto n : c.generate)
      if (n > 0) tests.push_back({0, n, 1, d});
    for (auto p : c.parallel)
      for (auto n : c.generate)
        if (p > 1 && n > 0) tests.push_back({0, n, p, d});
  }
  return tests;
}

std::string text(const char* pattern, double value) {
  char out[64];
  std::snprintf(out, sizeof out, pattern, value);
  return out;
}

// Rows: a workload, decoded plain and with guesses.
int compare_speculation(const bench_engine_config& c, gpu::model_runner& runner,
                        const model::loaded_model& m) {
  speculation_test test;
  test.tokens = c.generate.empty() ? test.tokens : c.generate.front();
  for (auto p : c.parallel)
    if (p > 1) test.parallel.push_back(p);
  test.repetitions = c.repetitions;
  test.cpu_time = c.runner.num_threads == 1;
  test.draft = {nullptr, std::chrono::milliseconds(c.draft_delay_ms), c.runner};
  if (!c.draft_model.empty()) {
    auto opened = model::open_model(c.draft_model);
    if (!opened) return complain(opened.error(), exit_model);
    test.draft.model = std::move(*opened);
  }
  progress shown;
  test.progress = [&](const std::string& text) { shown.show(text); };
  auto speeds = bench_speculation(runner, m, test);
  shown.finish();
  if (!speeds) return complain(speeds.error(), exit_device);
  if (c.output == "json") {
    auto all = nlohmann::ordered_json::array();
    for (const auto& s : *speeds)
      all.push_back({{"workload", s.workload},
                     {"source", s.source},
                     {"parallel", s.parallel},
                     {"plain_ts", s.plain},
                     {"speculative_ts", s.speculative},
                     {"ratio", s.speculative / s.plain},
                     {"prompts", s.prompts},
                     {"median_ratio", s.median},
                     {"lowest_ratio", s.lowest},
                     {"highest_ratio", s.highest},
                     {"drafted_per_token", s.drafted},
                     {"accepted_per_token", s.accepted},
                     {"branches_per_token", s.branches},
                     {"branches_won_per_token", s.branches_won},
                     {"answers", s.answers},
                     {"equal", s.equal}});
    std::printf("%s\n", all.dump(2).c_str());
    return exit_clean;
  }
  std::printf(
      "| workload | guesses | sequences | plain t/s | speculative t/s | ratio | of a prompt: "
      "median "
      "| lowest | highest | drafted | accepted | branches | won | equal answers |\n"
      "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | "
      "---: |\n");
  for (const auto& s : *speeds)
    std::printf(
        "| %s | %s | %u | %.1f | %.1f | %.3f | %.3f | %.3f | %.3f | %.2f | %.2f | %.3f | %.3f | "
        "%u/%u |\n",
        s.workload.c_str(), s.source.c_str(), s.parallel, s.plain, s.speculative,
        s.speculative / s.plain, s.median, s.lowest, s.highest, s.drafted, s.accepted, s.branches,
        s.branches_won, s.equal, s.answers);
  return exit_clean;
}

}  // namespace

int run_command(const bench_engine_config& c) {
  if (auto ok = start_logging({"error", "text", ""}); !ok)
    return complain(ok.error(), exit_configuration);
  auto path = find_model(c.model);
  if (!path) return complain(path.error(), exit_model);
  auto described = model::inspect(*path);
  if (!described) return complain(described.error(), exit_model);
  auto loaded = model::open_model(*path);
  if (!loaded) return complain(loaded.error(), exit_model);
  if (!c.profile.empty())
    return write_profile(c, *loaded,
                         described->architecture + " " +
                             (described->types.empty() ? "" : described->types.front().type));
  auto options = c.runner;
  options.max_batch_tokens = actors::usual_steps(gpu::takes_gpu(options)).batched_tokens;
  auto runner = gpu::make_runner(*loaded, options);
  if (!runner) return complain(runner.error(), exit_device);
  if (c.speculation) return compare_speculation(c, **runner, **loaded);
  auto speeds = bench_engine(**runner, (*loaded)->config, tests_of(c), c.repetitions,
                             options.max_batch_tokens);
  if (!speeds) return complain(speeds.error(), exit_device);

  const std::string model = described->architecture + " " +
                            (described->types.empty() ? "" : described->types.front().type);
  const std::string device = (*runner)->description();
  if (c.output == "json") {
    auto all = nlohmann::ordered_json::array();
    for (const auto& s : *speeds)
      all.push_back({{"model", model},
                     {"size", described->file_bytes},
                     {"params", described->parameters},
                     {"backend", device},
                     {"test", s.test.name()},
                     {"avg_ts", s.mean},
                     {"stddev_ts", s.deviation}});
    std::printf("%s\n", all.dump(2).c_str());
    return exit_clean;
  }
  std::printf(
      "| model | size | params | backend | test | t/s |\n| --- | ---: | ---: | --- | ---: | ---: "
      "|\n");
  for (const auto& s : *speeds)
    std::printf("| %s | %s MiB | %s M | %s | %s | %s |\n", model.c_str(),
                text("%.2f", static_cast<double>(described->file_bytes) / 1048576).c_str(),
                text("%.2f", static_cast<double>(described->parameters) / 1e6).c_str(),
                device.c_str(), s.test.name().c_str(),
                (text("%.2f", s.mean) + " ± " + text("%.2f", s.deviation)).c_str());
  return exit_clean;
}

}  // namespace troupe::api
