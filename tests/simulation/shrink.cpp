#include "tests/simulation/shrink.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace troupe::simulation {
namespace {

// Violations that differ in numbers only are the same.
std::string kind_of(const std::string& violation) {
  std::string k;
  for (char c : violation)
    if (c < '0' || c > '9') k.push_back(c);
  return k;
}

}  // namespace

shrunk shrink(const scenario& s, std::uint32_t max_runs) {
  shrunk best{s, run(s), 1};
  const auto wanted = kind_of(best.failure.violation);
  auto still_fails = [&](const scenario& smaller) {
    if (best.runs >= max_runs) return false;
    ++best.runs;
    auto out = run(smaller);
    if (kind_of(out.violation) != wanted) return false;
    best.smallest = smaller;
    return true;
  };
  auto without_each = [&](auto member) {
    for (std::size_t i = (best.smallest.*member).size(); i-- > 0;) {
      auto smaller = best.smallest;
      (smaller.*member).erase((smaller.*member).begin() + static_cast<std::ptrdiff_t>(i));
      still_fails(smaller);
    }
  };
  for (std::size_t before = ~std::size_t{0};
       best.smallest.requests.size() + best.smallest.faults.size() < before;) {
    before = best.smallest.requests.size() + best.smallest.faults.size();
    without_each(&scenario::faults);
    without_each(&scenario::requests);
  }
  auto simpler = best.smallest;
  simpler.skew.clear();
  still_fails(simpler);
  simpler = best.smallest;
  simpler.network.duplicate = 0;
  still_fails(simpler);
  simpler = best.smallest;
  simpler.prefix_caching = false;
  still_fails(simpler);
  simpler = best.smallest;
  simpler.drafts.liar = false;
  simpler.drafts.lose = 0;
  still_fails(simpler);
  best.failure = run(best.smallest, {true});
  return best;
}

std::string report(const shrunk& s, std::size_t last_lines) {
  std::string text = "violation: " + s.failure.violation + "\n" + describe(s.smallest) +
                     "what happened (the last " + std::to_string(last_lines) + " lines):\n";
  std::vector<std::string> lines;
  for (const auto& l : s.failure.lines)  // the pulse of the cluster hides what matters
    if (l.find("(heartbeat(") == std::string::npos && l.find("(membership(") == std::string::npos &&
        l.find("(prefix_events") == std::string::npos)
      lines.push_back(l);
  const auto first = lines.size() > last_lines ? lines.size() - last_lines : 0;
  for (auto i = first; i < lines.size(); ++i) text += lines[i] + "\n";
  return text + "again: " + s.smallest.origin + " --trace\n";
}

}  // namespace troupe::simulation
