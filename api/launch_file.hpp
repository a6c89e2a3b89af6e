// A cluster file: what runs on which host, as commands. Pure functions.
//
//   model = "/models/m.gguf"           # keys at the top are flags of every entry that knows them
//   cluster-secret-file = "/etc/troupe/secret"
//   [serve]                            # the gateway; keys are flags of `troupe serve`
//   on = "10.0.0.1"                    # left out: this host
//   port = 8000
//   cluster-port = 7070
//   [[node]]                           # keys are flags of `troupe node`
//   role = "prefill"
//   on = "10.0.0.2"
//   count = 2
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace troupe::api {

struct launch_entry {
  std::string name;                    // "serve", "prefill-10.0.0.2-0"
  std::string host;                    // empty: wherever the file is launched
  std::vector<std::string> arguments;  // of the binary
  std::vector<std::string>
      api_keys{};  // of the gateway: not arguments, which every user of a host can read
};

result<std::vector<launch_entry>> parse_launch_file(std::string_view toml);

}  // namespace troupe::api
