#include "actors/metrics_text.hpp"

#include <map>
#include <string_view>
#include <vector>

namespace troupe::actors {
namespace {

struct family {
  std::string help, type, samples;
};

// "# HELP name text" gives name; other lines nothing.
std::string_view name_of_comment(std::string_view line, std::string_view keyword) {
  const std::string head = "# " + std::string(keyword) + " ";
  if (!line.starts_with(head)) return {};
  line.remove_prefix(head.size());
  return line.substr(0, line.find(' '));
}

}  // namespace

std::string merge_metrics(std::span<const std::string> texts) {
  std::vector<std::string> order;
  std::map<std::string, family> families;
  for (const auto& text : texts) {
    family* current = nullptr;
    for (std::size_t begin = 0; begin < text.size();) {
      const auto end = std::min(text.find('\n', begin), text.size());
      const std::string_view line(text.data() + begin, end - begin);
      begin = end + 1;
      if (line.empty()) continue;
      auto help = name_of_comment(line, "HELP"), type = name_of_comment(line, "TYPE");
      if (auto name = help.empty() ? type : help; !name.empty()) {
        auto [it, added] = families.try_emplace(std::string(name));
        if (added) order.emplace_back(name);
        current = &it->second;
        (help.empty() ? current->type : current->help) = line;
      } else if (current != nullptr && line[0] != '#') {  // samples follow their family's comments
        current->samples += line;
        current->samples += '\n';
      }
    }
  }
  std::string merged;
  for (const auto& name : order) {
    const auto& f = families.at(name);
    if (!f.help.empty()) merged += f.help + '\n';
    if (!f.type.empty()) merged += f.type + '\n';
    merged += f.samples;
  }
  return merged;
}

}  // namespace troupe::actors
