#include <cstdio>

#include "api/commands.hpp"

namespace troupe::api {

int run_command(const version_config&) {
  std::printf("troupe %s\n", TROUPE_VERSION);
  return exit_clean;
}

}  // namespace troupe::api
