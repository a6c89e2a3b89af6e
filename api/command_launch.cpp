#include <arpa/inet.h>
#include <ifaddrs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "actors/children.hpp"
#include "api/commands.hpp"
#include "api/launch_check.hpp"
#include "api/serving.hpp"
#include "api/stop_signals.hpp"

namespace troupe::api {
namespace {

using std::chrono::milliseconds;

// Every name by which a file may call this host.
std::set<std::string> own_names(const std::string& as) {
  std::set<std::string> names{"", "localhost"};
  if (!as.empty()) names.insert(as);
  char host[256] = {};
  if (::gethostname(host, sizeof host - 1) == 0) names.insert(host);
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return names;
  for (const ifaddrs* a = list; a; a = a->ifa_next) {
    char text[INET6_ADDRSTRLEN] = {};
    if (!a->ifa_addr) continue;
    if (a->ifa_addr->sa_family == AF_INET)
      ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(a->ifa_addr)->sin_addr, text,
                  sizeof text);
    else if (a->ifa_addr->sa_family == AF_INET6)
      ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(a->ifa_addr)->sin6_addr, text,
                  sizeof text);
    if (*text) names.insert(text);
  }
  ::freeifaddrs(list);
  return names;
}

result<std::vector<launch_entry>> read_entries(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return fail(ec::io_error, "cannot read the cluster file '" + path.string() + "'");
  std::ostringstream text;
  text << file.rdbuf();
  return parse_launch_file(text.str());
}

// A name of its own is the only one that counts: several "hosts" of a test may share a machine.
launch_site site_of(const launch_config& c) {
  return {c.as.empty() ? own_names(c.as) : std::set<std::string>{c.as}};
}

std::string shown(const launch_entry& e) {
  std::string line = e.api_keys.empty() ? "troupe" : "TROUPE_API_KEY=(hidden) troupe";
  for (const auto& a : e.arguments) line += " " + a;
  return line;
}

actors::child_command command_of(const launch_entry& e) {
  actors::child_command c{e.name, "/proc/self/exe", e.arguments};
  std::string keys;
  for (const auto& key : e.api_keys) keys += (keys.empty() ? "" : " ") + key;
  if (!keys.empty()) c.environment.push_back("TROUPE_API_KEY=" + keys);
  return c;
}

// The plan, then what is wrong with it.
int rehearse(const std::vector<launch_entry>& entries, const launch_site& here) {
  for (const auto& e : entries)
    if (here.runs(e)) std::printf("%s\n", shown(e).c_str());
  std::fflush(stdout);
  const auto findings = check_launch(entries, here);
  for (const auto& finding : findings) std::fprintf(stderr, "troupe: %s\n", finding.c_str());
  return findings.empty() ? exit_clean : exit_configuration;
}

}  // namespace

int run_command(const launch_config& c) {
  stop_signals signals;
  ::unsetenv("TROUPE_CONFIG");  // its keys are ours, not our children's
  log_options log = c.log;
  log.node = "launch";
  if (auto ok = start_logging(log); !ok) return complain(ok.error(), exit_configuration);
  auto entries = read_entries(c.file);
  if (!entries) return complain(entries.error(), exit_configuration);
  const auto here = site_of(c);
  std::vector<actors::child_command> commands;
  for (const auto& e : *entries)
    if (here.runs(e)) commands.push_back(command_of(e));
  if (commands.empty())
    return complain({ec::invalid_argument, "the cluster file '" + c.file.string() +
                                               "' has nothing for this host: use --as NAME"},
                    exit_configuration);
  if (c.dry_run) return rehearse(*entries, here);
  for (const auto& e : *entries)
    if (here.runs(e)) spdlog::info("{}", shown(e));
  actors::children running(std::move(commands), nullptr);
  while (!signals.wait(milliseconds(200)))
    if (auto f = running.failure()) return complain(*f, exit_code_of(f->code));
  // They drain by themselves; a second signal cuts that short.
  running.terminate();
  while (!running.all_gone())
    if (signals.wait(milliseconds(50))) break;
  running.stop(milliseconds(3000));
  return exit_clean;
}

}  // namespace troupe::api
