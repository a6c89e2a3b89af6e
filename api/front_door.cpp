#include "api/front_door.hpp"

#include "api/application.hpp"
#include "api/openai_objects.hpp"

namespace troupe::api {
void front_door::handle(http_request request, std::shared_ptr<exchange> to) {
  if (auto open = std::atomic_load(&to_)) return open->handle(std::move(request), std::move(to));
  const auto path = path_of(request.target);
  http_response response;
  if (auto may = allowed_origins_.preflight(request)) {
    response = std::move(*may);
  } else if (path == "/live") {
    response.body = R"({"status":"alive"})";
  } else if (path == "/health" || path == "/ready") {
    response.status = 503;
    response.body = R"({"status":"starting","detail":"reading the model's file"})";
    response.headers.emplace_back("Retry-After", "1");
  } else {
    const auto e = server_is_starting();
    metrics_->rejected(e);
    response = error_response(e);
  }
  response.headers.emplace_back("X-Request-Id", request_id_of(request.header("x-request-id")));
  allowed_origins_.decorate(request, response);
  to->respond(std::move(response));
}

http_response front_door::refuse(const api_error& e) {
  if (auto open = std::atomic_load(&to_)) return open->refuse(e);
  metrics_->rejected(e);
  return closing_response(e);
}

}  // namespace troupe::api
