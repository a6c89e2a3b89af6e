#include "api/http_types.hpp"

#include "api/openai_objects.hpp"

namespace troupe::api {

http_response error_response(const api_error& e) {
  http_response response;
  response.status = e.status;
  response.body = to_json_text(e);
  if (e.retry_after > 0)
    response.headers.emplace_back("Retry-After", std::to_string(e.retry_after));
  return response;
}

http_response closing_response(const api_error& e) {
  auto response = error_response(e);
  response.close = true;
  response.headers.emplace_back("X-Request-Id", request_id_of({}));
  return response;
}

}  // namespace troupe::api
