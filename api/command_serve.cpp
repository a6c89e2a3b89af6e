#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "actors/children.hpp"
#include "api/command_line.hpp"
#include "api/commands.hpp"
#include "api/progress.hpp"
#include "api/serving.hpp"
#include "api/stop_signals.hpp"

namespace troupe::api {
namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Children have three seconds of it.
constexpr std::chrono::seconds stop_limit{8};

std::string describe(const actors::cluster_status& status) {
  std::string device;
  std::uint64_t blocks = 0;
  for (const auto& n : status.nodes) {
    if (n.role != "decode") continue;
    if (device.empty()) device = n.device;
    blocks += n.blocks_total;
  }
  return device + ", " + std::to_string(blocks) + " KV blocks";
}

// Until ready: progress. Then: a line with all that people ask for.
class announcer {
 public:
  announcer(const serving& s, clock::time_point started) : serving_(s), started_(started) {}
  void look() {
    if (announced_) return;
    const auto status = serving_.service().status();
    if (!status.ready) return progress_.show(status.loading);
    progress_.finish();
    announced_ = true;
    actors::report_up();
    const auto spent = std::chrono::duration<double>(clock::now() - started_).count();
    const auto& m = serving_.model();
    const auto fits = std::min(m.max_model_len, serving_.service().max_model_len());
    spdlog::info("ready after {:.2f} s: {} at {}/v1 ({}, context {} tokens{})", spent,
                 m.names.front(), serving_.url(), describe(status), fits,
                 fits < m.max_model_len
                     ? fmt::format(" of {}: more does not fit the KV cache", m.max_model_len)
                     : "");
    spdlog::info("nodes and programs join at cluster port {}", serving_.cluster_port());
  }
  bool announced() const { return announced_; }

 private:
  const serving& serving_;
  const clock::time_point started_;
  progress progress_;
  bool announced_ = false;
};

// false: a second signal, or the time is over.
bool drain(serving& s, stop_signals& signals, std::uint32_t limit_s) {
  spdlog::info("draining: running requests have {} s; a second signal stops at once", limit_s);
  s.drain();
  const auto deadline = clock::now() + std::chrono::seconds(limit_s);
  while (!s.drained()) {
    if (signals.wait(milliseconds(20))) return spdlog::warn("stopped by a second signal"), false;
    if (clock::now() >= deadline)
      return spdlog::warn("requests were cut off at the drain limit: {}", s.under_way()), false;
  }
  return true;
}

// Nodes are told everything by flags. What the environment says to the server (its port, its --config) must not be
// taken for theirs.
void forget_environment() {
  std::vector<std::string> names;
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    if (text.rfind("TROUPE_", 0) == 0) names.push_back(text.substr(0, text.find('=')));
  }
  for (const auto& name : names) ::unsetenv(name.c_str());
}

}  // namespace

result<void> check_output(const std::filesystem::path& in, const std::filesystem::path& out) {
  std::error_code none;  // neither need exist
  if (std::filesystem::equivalent(in, out, none))
    return fail(ec::invalid_argument,
                "'" + out.string() + "' is the input: give the output another name");
  return {};
}

int complain(const error& e, int exit_code) {
  std::fprintf(stderr, "troupe: %s\n",
               e.detail.empty() ? std::string(to_string(e.code)).c_str() : e.detail.c_str());
  return exit_code;
}

int run_command(const serve_config& c) {
  const auto began = clock::now();
  stop_signals signals;
  forget_environment();
  log_options log = c.log;
  log.node = "gateway";
  if (auto ok = start_logging(log); !ok) return complain(ok.error(), exit_configuration);
  auto started = serving::start(c);
  if (!started) return complain(started.error().cause, started.error().exit_code);
  auto& s = **started;
  announcer news(s, began);
  for (;;) {
    news.look();
    if (auto f = s.failure()) {
      signals.end_within(stop_limit, f->exit_code);
      return complain(f->cause, f->exit_code);
    }
    if (signals.wait(milliseconds(news.announced() ? 200 : 10))) break;
  }
  drain(s, signals, c.drain_timeout_s);
  signals.end_within(stop_limit, exit_clean);
  started->reset();
  spdlog::info("stopped");
  return exit_clean;
}

}  // namespace troupe::api
