// The HTTP server: sockets, timeouts and bounded buffers around a request_parser and a handler.
//
// Owner: the door (api/door). A few threads run all connections; each connection is a strand, so
// its handler runs on one thread at a time. Boost.Asio is in the .cpp only.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "api/http_codec.hpp"
#include "base/result.hpp"

namespace troupe::api {

struct http_server_options {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8000;  // 0: any free one
  unsigned threads = 2;
  http_limits limits;
  std::uint32_t max_connections = 1024;            // one more gets 503
  std::chrono::milliseconds idle_timeout{75'000};  // between requests
  std::chrono::milliseconds header_timeout{
      10'000};  // from a request's first byte, and for the first request
  std::chrono::milliseconds body_timeout{60'000};   // from the end of the header
  std::chrono::milliseconds write_timeout{30'000};  // without any progress
  std::chrono::milliseconds linger{3'000};  // for a client that still sends after its refusal
  std::size_t max_output =
      1u << 20;  // unsent bytes of a stream; more: the client reads too slowly and is dropped
};

class http_server {
 public:
  // Listens when it returns. ec::address_in_use names --port.
  static result<std::unique_ptr<http_server>> start(const http_server_options& options,
                                                    std::shared_ptr<http_handler> handler);
  virtual ~http_server() = default;  // stops

  virtual std::uint16_t port() const = 0;
  virtual std::size_t connections() const = 0;
  // Closes everything and joins the threads; exchanges under way are told that their client left.
  // Idempotent.
  virtual void stop() = 0;
};

}  // namespace troupe::api
