#include <cstdio>

#include "api/commands.hpp"
#include "transport/bench.hpp"

namespace troupe::api {

int run_command(const bench_kv_config& c) {
  for (std::size_t bytes : c.block_bytes)
    if (bytes < 4096 || bytes > (64u << 20) || bytes % 64 != 0)
      return complain({ec::invalid_argument, "--block-bytes " + std::to_string(bytes) +
                                                 ": use multiples of 64 in [4096, 64M]"},
                      exit_configuration);
  auto table = transport::bench_kv_report(c.block_bytes);
  if (!table) return complain(table.error(), exit_device);
  std::fputs(table->c_str(), stdout);
  return exit_clean;
}

}  // namespace troupe::api
