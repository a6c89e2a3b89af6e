// The commands of the binary, one a file: command_<name>.cpp. Each returns the exit code of the process.
#pragma once

#include "api/config.hpp"

namespace troupe::api {

int run_command(const serve_config& c);
int run_command(const node_config& c);
int run_command(const launch_config& c);
int run_command(const ask_config& c);
int run_command(const inspect_config& c);
int run_command(const tokenize_config& c);
int run_command(const status_config& c);
int run_command(const cache_config& c);
int run_command(const drain_config& c);
int run_command(const simulate_config& c);
int run_command(const quantize_config& c);
int run_command(const prune_config& c);
int run_command(const version_config& c);
int run_command(const bench_serve_config& c);
int run_command(const bench_engine_config& c);
int run_command(const bench_kv_config& c);

// "troupe: <what>" on standard error; returns the code.
int complain(const error& e, int exit_code);
// ec::invalid_argument when a command would write over the file that it reads.
result<void> check_output(const std::filesystem::path& in, const std::filesystem::path& out);

}  // namespace troupe::api
