// troupe_simulate: schedules from seeds, for as many or as long as asked for. Stops at the first violation, shrinks it
// and prints it. Exit code 0: every invariant held.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "base/log.hpp"
#include "tests/simulation/shrink.hpp"
#include "tests/simulation/tally.hpp"

namespace {

using namespace troupe::simulation;

struct settings {
  std::uint64_t first = 1, count = 1000, seed = 0;
  double minutes = 0;
  bool trace = false, calm = false, keep_going = false, pulls = false, stores = false,
       drafts = false;
  emphasis on() const {
    return drafts   ? emphasis::drafts
           : stores ? emphasis::stores
           : pulls  ? emphasis::pulls
                    : emphasis::by_seed;
  }
};

int show_one(const settings& c) {
  const auto s = make_scenario(c.seed, !c.calm, c.on());
  const auto out = run(s, {c.trace});
  for (const auto& line : out.lines) std::puts(line.c_str());
  std::printf("%shash %016llx, %llu events: %s\n", describe(s).c_str(),
              static_cast<unsigned long long>(out.hash),
              static_cast<unsigned long long>(out.events),
              out.violation.empty() ? "every invariant held" : out.violation.c_str());
  return out.violation.empty() ? 0 : 1;
}

int soak(const settings& c) {
  using clock = std::chrono::steady_clock;
  const auto begin = clock::now();
  auto seconds = [&] { return std::chrono::duration<double>(clock::now() - begin).count(); };
  tally sum;
  double told = 0;
  for (auto seed = c.first; seed < c.first + c.count; ++seed) {
    if (c.minutes > 0 && seconds() > c.minutes * 60) break;
    const auto s = make_scenario(seed, !c.calm, c.on());
    const auto out = run(s);
    sum.add(s, out);
    if (!out.violation.empty()) {
      if (c.keep_going) {
        std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed),
                    out.violation.c_str());
        continue;
      }
      std::fputs(report(shrink(s)).c_str(), stdout);
      break;
    }
    if (seconds() > told + 30) {
      told = seconds();
      std::printf("seed %llu, %.0f s\n", static_cast<unsigned long long>(seed), told);
      std::fflush(stdout);
    }
  }
  std::fputs(sum.table(seconds()).c_str(), stdout);
  return sum.violations == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Runs a simulated cluster through schedules of faults"};
  settings c;
  app.add_option("--seeds", c.count, "How many schedules");
  app.add_option("--first", c.first, "The first seed");
  app.add_option("--minutes", c.minutes, "Stop after this time");
  app.add_option("--seed", c.seed, "Only this one");
  app.add_flag("--trace", c.trace, "With --seed: tell everything that happens");
  app.add_flag("--calm", c.calm, "Without faults");
  app.add_flag("--pulls", c.pulls, "Dwell on pulls and prefill nodes, as the mutation tests do");
  app.add_flag("--stores", c.stores, "Dwell on KV stores");
  app.add_flag("--drafts", c.drafts, "Dwell on draft nodes and speculation");
  app.add_flag("--keep-going", c.keep_going, "List violations instead of stopping at the first");
  CLI11_PARSE(app, argc, argv);
  spdlog::set_level(spdlog::level::off);
  return c.seed != 0 ? show_one(c) : soak(c);
}
