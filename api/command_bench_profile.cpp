// `troupe bench engine --profile`: a device, a model and a link, measured for `troupe simulate`.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>

#include "actors/engine_settings.hpp"
#include "api/capacity_files.hpp"
#include "api/commands.hpp"
#include "api/profile_bench.hpp"
#include "transport/bench.hpp"

namespace troupe::api {
namespace {

// What nobody measures here: messages and the door, in seconds.
constexpr double turn = 0.0001, message = 0.0001, request = 0.001;

// Pulls between two processes of this host. It forks: before anything starts threads.
result<void> measure_link(std::size_t block_bytes, double& bytes_per_second, double& latency) {
  transport::kv_bench_options o;
  o.block_bytes = block_bytes;
  o.verify = true;
  TROUPE_TRY(const auto many, transport::bench_kv(o));
  o.blocks_per_pull = o.pulls_under_way = 1;
  TROUPE_TRY(const auto one, transport::bench_kv(o));
  bytes_per_second = many.gigabytes_per_second * 1e9;
  latency =
      std::max(0.0, one.pull_p50_us * 1e-6 - static_cast<double>(block_bytes) / bytes_per_second);
  return {};
}

std::string today() {
  char day[16];
  const auto now = std::time(nullptr);
  std::strftime(day, sizeof day, "%Y-%m-%d", std::gmtime(&now));
  return day;
}

}  // namespace

int write_profile(const bench_engine_config& c, std::shared_ptr<const model::loaded_model> m,
                  const std::string& model_name) {
  auto options = c.runner;
  const actors::step_sizes& steps = actors::usual_steps(gpu::takes_gpu(options));
  options.max_batch_tokens = steps.batched_tokens;
  const gpu::kv_layout layout{m->config.num_hidden_layers, m->config.num_key_value_heads,
                              m->config.head_dim, options.block_tokens, gpu::kv_dtype::f16};
  double bytes_per_second = 0, latency = 0;
  if (auto ok = measure_link(layout.block_bytes(), bytes_per_second, latency); !ok)
    return complain(ok.error(), exit_device);
  auto runner = gpu::make_runner(m, options);
  if (!runner) return complain(runner.error(), exit_device);
  auto p = bench_profile(**runner, m->config,
                         {.repetitions = c.repetitions,
                          .max_batch_tokens = steps.batched_tokens,
                          .max_decodes = steps.seqs,
                          .context = std::max(1536u, 2 * steps.batched_tokens)});
  if (!p) return complain(p.error(), exit_device);
  p->name = c.profile.stem().string();
  p->source = "troupe bench engine --profile, " + today() +
              "; turn_seconds, message_seconds, request_seconds and, on the host, num_blocks are "
              "assumed; the link is shared memory of one host";
  p->model = model_name;
  p->link_bytes_per_second = bytes_per_second;
  p->link_latency_seconds = latency;
  const std::uint64_t memory = (*runner)->kv_budget() > 0 ? (*runner)->kv_budget() : 1ull << 30;
  p->num_blocks = static_cast<std::uint32_t>(std::max<std::uint64_t>(4, memory / p->block_bytes));
  p->turn_seconds = turn, p->message_seconds = message, p->request_seconds = request;
  const auto text = to_json(*p).dump(2) + "\n";
  std::ofstream out(c.profile);
  out << text;
  out.close();
  if (!out)
    return complain({ec::io_error, c.profile.string() + " cannot be written"}, exit_configuration);
  std::fputs(text.c_str(), stdout);
  return exit_clean;
}

}  // namespace troupe::api
