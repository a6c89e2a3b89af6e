// What `troupe simulate` reads: traces of requests, one JSON object a line, and profiles of devices. Errors name file, line
// and field. Plain functions; docs/capacity-planning.md describes both formats.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "actors/capacity/plan.hpp"

namespace troupe::api {

// Requests in the order of their arrival; `from` and `to` cut the trace (seconds), and time starts at `from`.
result<std::vector<actors::trace_request>> read_trace(const std::filesystem::path& file,
                                                      double from = 0, double to = 1e18);
result<actors::trace_request> parse_trace_line(std::string_view line);

result<actors::device_profile> read_profile(const std::filesystem::path& file);
result<actors::device_profile> parse_profile(std::string_view text);
nlohmann::ordered_json to_json(const actors::device_profile& p);

}  // namespace troupe::api
