// The answer of /v1/cluster as a table for people. Pure functions.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace troupe::api {

std::string status_table(const nlohmann::json& cluster);
// Columns as wide as they must be, two spaces between; numbers to the right. The first row is the heading.
std::string align(const std::vector<std::vector<std::string>>& rows);

}  // namespace troupe::api
