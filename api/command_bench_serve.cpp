#include <cstdio>
#include <fstream>
#include <set>

#include "api/commands.hpp"
#include "api/load_generator.hpp"

namespace troupe::api {

int run_command(const bench_serve_config& c) {
  auto limits = parse_goodput(c.goodput);
  if (!limits) return complain(limits.error(), exit_configuration);
  auto load = generate_load(c);
  if (!load) return complain(load.error(), exit_configuration);
  const auto summary = summarize(*load, *limits);
  std::fputs(report(summary).c_str(), stdout);
  for (const auto& reason : std::set(load->failures.begin(), load->failures.end()))
    std::fprintf(stderr, "troupe: failed: %s\n", reason.c_str());
  if (!c.output.empty()) {
    std::ofstream file(c.output);
    file << summary.dump(2) << "\n";
    if (!file.flush())
      return complain({ec::io_error, "--output-json: cannot write '" + c.output.string() + "'"},
                      exit_configuration);
  }
  return load->failures.empty() ? exit_clean : exit_configuration;
}

}  // namespace troupe::api
