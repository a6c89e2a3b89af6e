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
  const cors* allowed_origins = nullptr;  // of the application, which outlives the call
  std::string_view path;                  // of request.target
  std::string id;
  std::string tenant;   // the holder of its API key
  std::string warning;  // what the answer is worth knowing of
  endpoint name = endpoint::other;

  void decorate(http_response& response) const {
    response.headers.emplace_back("X-Request-Id", id);
    allowed_origins->decorate(request, response);
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
    metrics->rejected(e);
    auto response = error_response(e);
    response.headers.insert(response.headers.end(), headers);
    answer(std::move(response));
  }
};

}  // namespace troupe::api
