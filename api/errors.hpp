// What an HTTP client is told when something is wrong: OpenAI's error object and its status, from
// one table.
//
// Messages are for strangers: they never hold paths, addresses, exception text or keys. What the
// cluster reports as its own fault is replaced by a fixed sentence; the detail goes to the log.
// Plain values, any thread.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "base/result.hpp"

namespace troupe::api {

struct api_error {
  int status = 500;
  std::string type = "server_error";
  std::string code = "internal_error";
  std::string param;  // empty: null
  std::string message;
  int retry_after = 0;   // seconds; 0: no header
  std::string reason{};  // of troupe_requests_rejected_total; empty: the code
};

template <class T>
using api_result = tl::expected<T, api_error>;

// 400 about one field of the request.
api_error bad_field(std::string_view param, std::string message,
                    std::string_view code = "invalid_value");
// 400: valid at OpenAI, but this server cannot do it, and ignoring it would change the answer.
api_error unsupported_field(std::string_view param, std::string message);
// The errors of the HTTP layer: 400, 404, 405, 408, 413, 415, 431, 503. REQUIRES: one of these.
api_error http_error(int status, std::string message);
api_error server_is_starting();
api_error invalid_api_key();
api_error not_an_admin();
api_error origin_not_allowed();
api_error model_not_found(std::string_view name);

// The one table from troupe's codes to HTTP. A service's detail "temperature: must be ..." names
// its field.
api_error from_error(const error& e);

// {"error":{"message":...,"type":...,"param":...,"code":...}}
std::string to_json_text(const api_error& e);

}  // namespace troupe::api

// As TROUPE_TRY and TROUPE_CHECK, for api_result.
#define API_TRY_(tmp, declaration, ...)                           \
  auto tmp = (__VA_ARGS__);                                       \
  if (!tmp) return ::tl::make_unexpected(std::move(tmp).error()); \
  declaration = std::move(*tmp)
#define API_TRY(declaration, ...) \
  API_TRY_(TROUPE_CONCAT(api_try_, __LINE__), declaration, __VA_ARGS__)
#define API_CHECK(...)                            \
  if (auto api_check = (__VA_ARGS__); !api_check) \
  return ::tl::make_unexpected(std::move(api_check).error())
