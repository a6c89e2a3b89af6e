#include "api/http_types.hpp"

namespace troupe::api {

http_response error_response(const api_error& e) {
  http_response response;
  response.status = e.status;
  response.body = to_json_text(e);
  if (e.retry_after > 0)
    response.headers.emplace_back("Retry-After", std::to_string(e.retry_after));
  return response;
}

}  // namespace troupe::api
