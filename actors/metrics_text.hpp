// Merges Prometheus texts of several processes into one exposition: a family that appears in more than one text gets
// one HELP and TYPE line and all samples. Pure function, any thread.
#pragma once

#include <span>
#include <string>

namespace troupe::actors {

std::string merge_metrics(std::span<const std::string> texts);

}  // namespace troupe::actors
