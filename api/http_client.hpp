// A small blocking HTTP client for our own commands: one request a connection, with deadlines and streaming.
// Plain HTTP only. One thread each.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe::api {

struct url {
  std::string host;
  std::uint16_t port = 80;
  std::string base;  // path without its last slash
};
result<url> parse_url(const std::string& text);

struct client_request {
  std::string method = "GET";
  std::string path = "/";
  std::string body;
  std::string key;  // empty: no Authorization header
  std::chrono::milliseconds connect_timeout{5'000};
  std::chrono::milliseconds timeout{600'000};  // of the whole
};

struct client_response {
  int status = 0;
  std::string body;  // without what the stream function took
};

// Given the pieces of a 200 answer's body as they arrive; false: stop reading.
using body_function = std::function<bool(std::string_view)>;

// io_error when the server cannot be reached or breaks off, deadline_exceeded, canceled when on_body said so.
result<client_response> send_request(const url& to, const client_request& request,
                                     const body_function& on_body = {});

// The message of an error answer, else its status.
std::string error_message(const client_response& response);

}  // namespace troupe::api
