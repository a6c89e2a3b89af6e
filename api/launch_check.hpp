// What can be known of a cluster file without starting anything: `troupe launch --dry-run`. The flags of every entry are
// read as its process will read them; files, addresses, ports and devices are looked at for the entries of this host,
// where they are.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "api/launch_file.hpp"

namespace troupe::api {

// Whose entries are here: the names of this host.
struct launch_site {
  std::set<std::string> names;
  bool runs(const launch_entry& e) const { return names.contains(e.host); }
};

// Everything that is wrong, "ENTRY: what", of the first entry that it is true of.
std::vector<std::string> check_launch(const std::vector<launch_entry>& entries,
                                      const launch_site& here);

}  // namespace troupe::api
