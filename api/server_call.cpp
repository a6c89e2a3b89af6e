#include "api/server_call.hpp"

#include "api/http_client.hpp"

namespace troupe::api {

result<std::string> call_server(const server_address& server, const std::string& path,
                                const std::string& body, std::chrono::milliseconds timeout) {
  TROUPE_TRY(auto to, parse_url(server.url));
  client_request request;
  request.method = body.empty() ? "GET" : "POST";
  request.path = path;
  request.body = body;
  request.key = server.key;
  request.timeout = timeout;
  TROUPE_TRY(auto response, send_request(to, request));
  if (response.status != 200) return fail(ec::io_error, error_message(response));
  return std::move(response.body);
}

result<nlohmann::json> call_server_json(const server_address& server, const std::string& path,
                                        const std::string& body) {
  TROUPE_TRY(const auto text, call_server(server, path, body));
  auto answer = nlohmann::json::parse(text, nullptr, false);
  if (!answer.is_object())
    return fail(ec::io_error, server.url + " is no server of ours: " + path + " is no JSON");
  return answer;
}

}  // namespace troupe::api
