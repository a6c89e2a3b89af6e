#include "api/status_table.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "api/choice_output.hpp"

namespace troupe::api {
namespace {

bool is_number(const std::string& s) {
  return !s.empty() && s.find_first_not_of("0123456789.,-/ smGMKiB%") == std::string::npos &&
         s.find_first_of("0123456789") != std::string::npos;
}

std::string text(const nlohmann::json& o, const char* key) {
  auto found = o.find(key);
  if (found == o.end() || found->is_null()) return "-";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

std::string seconds(double s) {
  char out[32];
  std::snprintf(out, sizeof out, "%.1f s", s);
  return out;
}

}  // namespace

std::string align(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> width;
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (width.size() <= i) width.push_back(0);
      width[i] = std::max(width[i], code_points(row[i]));
    }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string pad(width[i] - code_points(row[i]), ' ');
      const bool right = rows.size() > 1 && i < rows[1].size() && is_number(rows[1][i]);
      line += right ? pad + row[i] : row[i] + pad;
      line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string status_table(const nlohmann::json& cluster) {
  std::vector<std::vector<std::string>> rows{
      {"NODE", "ROLE", "STATE", "RUNNING", "WAITING", "BLOCKS USED", "CACHED", "FREE", "TOTAL",
       "PROMPT TOKENS", "GENERATED", "HEARTBEAT", "ADDRESS", "DEVICE"}};
  for (const auto& n : cluster.value("nodes", nlohmann::json::array())) {
    const auto blocks = n.value("blocks", nlohmann::json::object());
    std::string used = text(blocks, "used");
    // Blocks that wait for a pull to end are worth a word only when there are any.
    if (blocks.value("quarantined", 0) > 0)
      used += "+" + text(blocks, "quarantined") + " quarantined";
    rows.push_back({text(n, "name"), text(n, "role"), text(n, "state"), text(n, "running"),
                    text(n, "waiting"), used, text(blocks, "cached"), text(blocks, "free"),
                    text(blocks, "total"), text(n, "prompt_tokens"), text(n, "generated_tokens"),
                    seconds(n.value("heartbeat_age_seconds", 0.0)),
                    text(n, "host") + ":" + text(n, "port"), text(n, "device")});
  }
  std::string state = cluster.value("draining", false) ? "draining"
                      : cluster.value("ready", false)  ? "ready"
                                                       : "not ready";
  if (const auto loading = cluster.value("loading", std::string());
      !loading.empty() && state == "not ready")
    state += " (" + loading + ")";
  return align(rows) + state + ", " + text(cluster, "requests_in_flight") + " requests in flight\n";
}

}  // namespace troupe::api
