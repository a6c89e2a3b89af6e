// The command line: subcommands, flags, their environment variables (TROUPE_<FLAG>) and the TOML file of --config.
// Precedence: flags, environment, file, defaults. Pure but for reading the file and the environment.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api/config.hpp"

namespace troupe::api {

// What to do, or a text to print and leave with: help (code 0) or what is wrong (code 1).
struct parsed_line {
  std::optional<any_command> what;
  std::string text;
  int exit_code = exit_clean;
};

parsed_line parse_command_line(
    const std::vector<std::string>& arguments);  // without the program's name

// Smallest number of inserted, removed or replaced characters that make one text of the other.
std::size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace troupe::api
