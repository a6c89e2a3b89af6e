// Settings from a TOML file: keys are the long names of a command's flags. Flags and environment variables that were
// given win; an unknown key is an error.
#pragma once

#include <filesystem>

#include "base/result.hpp"

namespace CLI {
class App;
}

namespace troupe::api {

result<void> apply_config_file(CLI::App& command, const std::filesystem::path& file);

}  // namespace troupe::api
