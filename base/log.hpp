// The process's log: text or JSON lines to standard error, through spdlog. Rooms that are plain objects
// (model, engine) do not log: they return errors. Any thread.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

#include "base/result.hpp"

namespace troupe {

struct log_options {
  std::string level = "info";   // trace, debug, info, warn, error, off
  std::string format = "text";  // text, json
  std::string node;             // name of this node, in every line
};

result<void> start_logging(const log_options& options);

}  // namespace troupe
