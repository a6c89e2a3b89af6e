// One call of a running server, for the commands that ask one. Blocking, with a deadline; one thread each.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.hpp"

namespace troupe::api {

struct server_address {
  std::string url, key;  // key: empty for none
};

// The body of a 200 answer; a POST when there is something to send. io_error with the server's own message for another
// status; what send_request says when it does not answer.
result<std::string> call_server(const server_address& server, const std::string& path,
                                const std::string& body = {},
                                std::chrono::milliseconds timeout = std::chrono::seconds(10));
// The same of an endpoint of ours, which answers with a JSON object.
result<nlohmann::json> call_server_json(const server_address& server, const std::string& path,
                                        const std::string& body = {});

}  // namespace troupe::api
