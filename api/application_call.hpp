// One call of an endpoint, private to the application's files.
#pragma once

#include <chrono>
#include <initializer_list>

#include "api/application.hpp"

namespace troupe::api {

struct application::call : std::enable_shared_from_this<application::call> {
  http_request request;
  std::shared_ptr<exchange> to;
  std::shared_ptr<frontend_metrics> metrics;
  std::string_view path;  // of request.target
  std::string id;
  std::string tenant;   // the holder of its API key
  std::string warning;  // what the answer is worth knowing of
  endpoint name = endpoint::other;

  void decorate(http_response& response) const {
    response.headers.emplace_back("X-Request-Id", id);
    if (!warning.empty()) response.headers.emplace_back("X-Troupe-Warning", warning);
  }
  void count(int status) const {
    const auto spent = std::chrono::steady_clock::now() - request.received;
    metrics->answered(name, status, std::chrono::duration<double>(spent).count());
  }
  void answer(http_response response) const {
    decorate(response);
    count(response.status);
    to->respond(std::move(response));
  }
  void answer(const ojson& body) const {
    http_response response;
    response.body = dump(body);
    answer(std::move(response));
  }
  void fail(const api_error& e,
            std::initializer_list<std::pair<std::string, std::string>> headers = {}) const {
    http_response response;
    response.status = e.status;
    response.body = to_json_text(e);
    response.headers = headers;
    if (e.retry_after > 0)
      response.headers.emplace_back("Retry-After", std::to_string(e.retry_after));
    answer(std::move(response));
  }
};

}  // namespace troupe::api
