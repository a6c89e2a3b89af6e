#include "api/errors.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace troupe::api {
namespace {

struct row {
  ec code;
  int status;
  const char* type;
  const char* name;
  int retry_after;
  const char* message;  // nullptr: the detail is meant for the client
};

constexpr const char* overloaded_text = "The server is overloaded. Try again in a moment.";
constexpr const char* fault_text = "The server failed to process the request.";
constexpr const char* lost_text = "A worker of the cluster was lost while it served the request.";

constexpr std::array table{
    row{ec::invalid_argument, 400, "invalid_request_error", "invalid_value", 0, nullptr},
    row{ec::context_exceeded, 400, "invalid_request_error", "context_length_exceeded", 0, nullptr},
    row{ec::unsupported, 400, "invalid_request_error", "unsupported_value", 0, nullptr},
    row{ec::not_found, 404, "not_found_error", "not_found", 0, "No such object."},
    row{ec::unauthorized, 401, "authentication_error", "invalid_api_key", 0,
        "Incorrect or missing API key: send 'Authorization: Bearer KEY' (troupe's commands: "
        "--api-key or TROUPE_API_KEY)."},
    row{ec::out_of_memory, 503, "service_unavailable_error", "server_is_overloaded", 1,
        overloaded_text},
    row{ec::queue_full, 503, "service_unavailable_error", "server_is_overloaded", 1,
        overloaded_text},
    row{ec::overloaded, 429, "rate_limit_error", "server_is_overloaded", 1, overloaded_text},
    row{ec::poison, 400, "invalid_request_error", "request_ends_workers", 0, nullptr},
    row{ec::draining, 503, "service_unavailable_error", "server_is_draining", 5,
        "The server is shutting down and takes no new requests."},
    row{ec::no_worker, 503, "service_unavailable_error", "no_worker", 2,
        "No worker is ready to serve the request."},
    row{ec::canceled, 503, "service_unavailable_error", "request_canceled", 1,
        "The request was canceled by the server."},
    row{ec::deadline_exceeded, 504, "timeout", "deadline_exceeded", 0,
        "The request did not finish within its time limit."},
    row{ec::peer_lost, 500, "server_error", "worker_lost", 0, lost_text},
    row{ec::device_lost, 500, "server_error", "worker_lost", 0, lost_text},
    row{ec::identity_mismatch, 500, "server_error", "internal_error", 0, fault_text},
    row{ec::fence_mismatch, 500, "server_error", "internal_error", 0, fault_text},
    row{ec::io_error, 500, "server_error", "internal_error", 0, fault_text},
    row{ec::corrupt_file, 500, "server_error", "internal_error", 0, fault_text},
    row{ec::address_in_use, 500, "server_error", "internal_error", 0, fault_text},
    row{ec::none, 500, "server_error", "internal_error", 0, fault_text},
    row{ec::internal, 500, "server_error", "internal_error", 0, fault_text},
};

bool is_field_name(std::string_view s) {
  return !s.empty() && s.size() <= 40 && std::all_of(s.begin(), s.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

}  // namespace

api_error bad_field(std::string_view param, std::string message, std::string_view code) {
  return {400, "invalid_request_error", std::string(code), std::string(param), std::move(message),
          0};
}

api_error unsupported_field(std::string_view param, std::string message) {
  return bad_field(param, std::move(message), "unsupported_value");
}

api_error http_error(int status, std::string message) {
  api_error e{status, "invalid_request_error", "", "", std::move(message), 0};
  switch (status) {
    case 400:
      e.code = "bad_request";
      break;
    case 404:
      e.type = "not_found_error", e.code = "unknown_url";
      break;
    case 405:
      e.code = "method_not_allowed";
      break;
    case 408:
      e.type = "timeout", e.code = "request_timeout";
      break;
    case 413:
      e.code = "request_too_large";
      break;
    case 415:
      e.code = "unsupported_media_type";
      break;
    case 431:
      e.code = "headers_too_large";
      break;
    case 503:
      e.type = "service_unavailable_error", e.code = "server_is_overloaded", e.retry_after = 1;
      e.reason = "too_many_at_once";
      break;
    default:
      TROUPE_ASSERT(!"a status of the HTTP layer");
  }
  return e;
}

api_error server_is_starting() {
  return {503,
          "service_unavailable_error",
          "server_is_starting",
          "",
          "The server is starting: its model is being read.",
          1};
}

api_error invalid_api_key() {
  return from_error({ec::unauthorized, {}});
}

api_error not_an_admin() {
  return {403,
          "permission_error",
          "admin_key_required",
          "",
          "This changes the cluster for everybody and needs one of the server's admin keys "
          "(--admin-key-file).",
          0};
}

api_error origin_not_allowed() {
  return {403,
          "permission_error",
          "origin_not_allowed",
          "",
          "This page's origin may not use the server: --allowed-origins lists those that may.",
          0};
}

api_error model_not_found(std::string_view name) {
  return {404,
          "not_found_error",
          "model_not_found",
          "model",
          "The model '" + std::string(name.substr(0, 200)) +
              "' does not exist: GET /v1/models lists what does.",
          0};
}

api_error from_error(const error& e) {
  const auto* found =
      std::find_if(table.begin(), table.end(), [&](const row& r) { return r.code == e.code; });
  const row& r = found == table.end() ? table.back() : *found;
  api_error out{r.status,     r.type, r.name, "", r.message ? r.message : e.detail.substr(0, 500),
                r.retry_after};
  if (!r.message) {
    const auto colon = e.detail.find(": ");
    if (colon != std::string::npos && is_field_name(std::string_view(e.detail).substr(0, colon)))
      out.param = e.detail.substr(0, colon);
    if (out.message.empty()) out.message = "The request is not valid.";
  }
  // Clients need not tell these apart, operators do.
  if (out.code == "server_is_overloaded") out.reason = to_string(e.code);
  return out;
}

std::string to_json_text(const api_error& e) {
  nlohmann::ordered_json body;
  body["message"] = e.message;
  body["type"] = e.type;
  body["param"] = e.param.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(e.param);
  body["code"] = e.code;
  return nlohmann::ordered_json{{"error", std::move(body)}}.dump(
      -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace troupe::api
