// One HTTP exchange as handlers see it: a request, and an `exchange` to answer it. No sockets here,
// so handlers are tested without any.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/errors.hpp"

namespace troupe::api {

struct http_request {
  std::string method;                                        // "GET"
  std::string target;                                        // as sent
  unsigned version = 11;                                     // 10 or 11
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  bool keep_alive = true;
  std::chrono::steady_clock::time_point received{};

  // Empty when absent.
  std::string_view header(std::string_view lower_case_name) const {
    for (const auto& [name, value] : headers)
      if (name == lower_case_name) return value;
    return {};
  }
};

struct http_response {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  bool close = false;  // the connection ends after it
};

// What a client is told of an error.
http_response error_response(const api_error& e);
// To what could not be read as a request: the connection ends with it.
http_response closing_response(const api_error& e);

// Handlers hold it as long as they need; the functions of an exchange that has ended do nothing.
class exchange {
 public:
  virtual ~exchange() = default;

  // Any thread: runs the task on the exchange's own strand, soon, never inside this call.
  virtual void post(std::function<void()> task) = 0;

  // The rest: on the strand only (`handle` is called there).
  // A whole answer. Exactly one of respond and start_stream.
  virtual void respond(http_response response) = 0;
  // The head of an answer whose body follows by write; a comment is sent whenever nothing was
  // written for `ping`.
  virtual void start_stream(http_response head, std::chrono::milliseconds ping) = 0;
  // false: the client is gone or reads so slowly that it was dropped.
  virtual bool write(std::string_view bytes) = 0;
  virtual void end_stream() = 0;
  // Called at most once, when the client leaves (or is dropped) before the answer is complete.
  virtual void when_closed(std::function<void()> task) = 0;
  // One timer; a second call replaces the first. Not called once the answer is complete.
  virtual void after(std::chrono::milliseconds delay, std::function<void()> task) = 0;
};

class http_handler {
 public:
  virtual ~http_handler() = default;
  virtual void handle(http_request request, std::shared_ptr<exchange> to) = 0;
  // The answer to a request that never became one: malformed, too large, too slow, too many
  // connections.
  virtual http_response refuse(const api_error& e) = 0;
};

}  // namespace troupe::api
