#include "actors/placement.hpp"

#include <map>

namespace troupe::actors {
namespace {

result<std::vector<std::string>> split(const std::string& devices) {
  std::vector<std::string> names;
  for (std::size_t at = 0; at <= devices.size();) {
    const std::size_t comma = std::min(devices.find(',', at), devices.size());
    names.push_back(devices.substr(at, comma - at));
    if (names.back().empty())
      return fail(ec::invalid_argument, "--device '" + devices + "' names an empty device");
    at = comma + 1;
  }
  return names;
}

// "cuda" and "auto" are the first GPU, if there is one.
std::string key_of(const std::string& device) {
  return device == "cuda" || device == "auto" ? "cuda:0" : device;
}

}  // namespace

result<std::vector<placement>> place_nodes(const gpu::runner_options& options, std::size_t nodes) {
  TROUPE_TRY(const auto names, split(options.device));
  std::vector<placement> placed(nodes);
  std::map<std::string, std::size_t> sharing;
  for (std::size_t i = 0; i < nodes; ++i) {
    placed[i].device = names[i % names.size()];
    ++sharing[key_of(placed[i].device)];
  }
  for (placement& p : placed) {
    if (p.device == "cpu") continue;
    const auto count = static_cast<double>(sharing[key_of(p.device)]);
    const double asked = options.gpu_memory_fraction;
    p.gpu_memory_fraction = asked > 0 ? asked : gpu::default_gpu_memory_fraction / count;
    if (asked * count > 1)
      return fail(ec::invalid_argument, "--gpu-memory-fraction " + std::to_string(asked) + ": " +
                                            std::to_string(sharing[key_of(p.device)]) +
                                            " nodes share " + p.device +
                                            ", which makes more than all of its memory: give "
                                            "each less, or start fewer (--prefill 0)");
  }
  return placed;
}

}  // namespace troupe::actors
