// HTTP/1.1 bytes to requests and responses to bytes, without sockets: Boost.Beast's parser with our
// limits and the checks that it leaves out. All of Beast is in http_codec.cpp, for the sake of
// compile time. One thread each.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "api/http_types.hpp"

namespace troupe::api {

struct http_limits {
  std::uint64_t body_bytes = 8u << 20;     // more: 413
  std::uint32_t header_bytes = 32u << 10;  // more: 431
  std::uint32_t headers = 100;             // more: 431
};

// Requests out of a stream of bytes, one after another (pipelining).
//
//   idle ──append──► header ──► body ──► complete ──take──► idle
//     any ──► failed (the connection cannot go on)
class request_parser {
 public:
  enum class state : std::uint8_t { idle, header, body, complete, failed };

  explicit request_parser(const http_limits& limits);
  ~request_parser();

  void append(std::string_view bytes);
  state advance();
  // advance() said body for the first time and the client waits for "100 Continue".
  bool take_expects_continue();
  // REQUIRES: advance() said complete.
  http_request take();
  // REQUIRES: advance() said failed.
  const api_error& failure() const;
  std::size_t buffered() const;  // bytes not consumed yet

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

// A client's view of one response.
class response_parser {
 public:
  response_parser();
  ~response_parser();

  // false: not HTTP. `body` gets what arrived of the body.
  bool push(std::string_view bytes, std::string& body);
  // The peer closed: true if the response was complete then.
  bool finish();
  bool header_done() const;
  bool done() const;
  int status() const;
  std::string header(std::string_view name) const;

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

std::string_view reason_phrase(int status);
// Status line and headers with the empty line; length absent: chunked (or until close, for
// HTTP/1.0).
std::string response_head(const http_response& response, unsigned version, bool keep_alive,
                          std::optional<std::size_t> length);
std::string body_chunk(std::string_view bytes);
inline constexpr std::string_view last_chunk = "0\r\n\r\n";

}  // namespace troupe::api
