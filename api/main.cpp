// The binary: parses the command line and runs one command.
#include <csignal>
#include <cstdio>
#include <vector>

#include "api/command_line.hpp"
#include "api/commands.hpp"
#include "model/mapped_file.hpp"

int main(int argc, char** argv) {
  // A peer that closes its socket is an error code, not the end.
  std::signal(SIGPIPE, SIG_IGN);
  troupe::model::report_lost_mappings();
  auto line = troupe::api::parse_command_line({argv + 1, argv + argc});
  if (!line.what) {
    std::fputs(line.text.c_str(), line.exit_code == troupe::api::exit_clean ? stdout : stderr);
    return line.exit_code;
  }
  return std::visit([](const auto& command) { return troupe::api::run_command(command); },
                    *line.what);
}
