// Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): frames out,
// and a parser for our own clients. Plain values, one thread each.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace troupe::api {

// "data: <payload>\n\n". REQUIRES: the payload has no line break (JSON dumped compactly has none).
std::string sse_data(std::string_view payload);
inline constexpr std::string_view sse_done = "data: [DONE]\n\n";
inline constexpr std::string_view sse_ping = ": ping\n\n";

// Bytes in, data payloads out; LF, CRLF and CR line ends; comments and other fields are dropped.
class sse_parser {
 public:
  void push(std::string_view bytes) { buffer_ += bytes; }
  std::optional<std::string> next();  // nothing: needs more bytes

 private:
  std::optional<std::string> line();

  std::string buffer_;
  std::size_t at_ = 0;  // start of the next line
  std::string data_;
  bool has_data_ = false;
};

}  // namespace troupe::api
