#include "api/http_codec.hpp"

#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/src.hpp>
#include <ctime>

namespace troupe::api {
namespace {

namespace http = boost::beast::http;
namespace asio = boost::asio;

std::string lower(std::string_view s) {
  std::string out(s);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

// Beast accepts these; they are how requests are smuggled, or would change what a body means.
std::optional<api_error> objection(const http::request<http::string_body>& message,
                                   const http_limits& limits) {
  std::uint32_t count = 0, lengths = 0, encodings = 0, hosts = 0;
  bool chunked = true;
  for (const auto& field : message) {
    ++count;
    if (field.name() == http::field::content_length) ++lengths;
    if (field.name() == http::field::host) ++hosts;
    if (field.name() == http::field::transfer_encoding) {
      ++encodings;
      chunked = lower({field.value().data(), field.value().size()}) == "chunked";
    }
  }
  if (count > limits.headers) return http_error(431, "The request has too many headers.");
  if (message.version() != 10 && message.version() != 11)
    return http_error(400, "Only HTTP/1.0 and HTTP/1.1 are supported.");
  if (lengths > 1 || encodings > 1 || (lengths > 0 && encodings > 0) || !chunked ||
      (encodings > 0 && message.version() == 10))
    return http_error(400, "The length of the body is ambiguous.");
  if (message.version() == 11 && hosts != 1)
    return http_error(400, "The request must have one Host header.");
  if (auto coding = message[http::field::content_encoding];
      !coding.empty() && lower({coding.data(), coding.size()}) != "identity")
    return http_error(415, "Compressed bodies are not supported.");
  return {};
}

api_error from_beast(const boost::system::error_code& code) {
  if (code == http::error::header_limit || code == http::error::buffer_overflow)
    return http_error(431, "The request's headers are too large.");
  if (code == http::error::body_limit) return http_error(413, "The request's body is too large.");
  return http_error(400, "The request is not valid HTTP.");
}

}  // namespace

// -- requests
// ----------------------------------------------------------------------------------------------------------
struct request_parser::impl {
  explicit impl(const http_limits& l) : limits(l) { reset(); }
  void reset() {
    parser.emplace();
    parser->header_limit(limits.header_bytes);
    parser->body_limit(limits.body_bytes);
    parser->eager(true);
    header_checked = continue_told = false;
  }
  state fail(api_error e) {
    failure = std::move(e);
    buffer.clear();
    return now = state::failed;
  }

  const http_limits limits;
  std::optional<http::request_parser<http::string_body>> parser;
  std::string buffer;
  api_error failure;
  state now = state::idle;
  bool header_checked = false, continue_told = false;
};

request_parser::request_parser(const http_limits& limits) : impl_(std::make_unique<impl>(limits)) {}
request_parser::~request_parser() = default;

void request_parser::append(std::string_view bytes) {
  impl_->buffer += bytes;
}
std::size_t request_parser::buffered() const {
  return impl_->buffer.size();
}
const api_error& request_parser::failure() const {
  return impl_->failure;
}

request_parser::state request_parser::advance() {
  auto& m = *impl_;
  if (m.now == state::failed || m.now == state::complete) return m.now;
  if (m.now == state::idle) {
    // Empty lines before a request are allowed (RFC 9112, 2.2).
    m.buffer.erase(0, std::min(m.buffer.find_first_not_of("\r\n"), m.buffer.size()));
    if (m.buffer.empty()) return m.now;
    m.now = state::header;
  }
  std::size_t used = 0;
  boost::system::error_code code;
  while (used < m.buffer.size() && !m.parser->is_done()) {
    const std::size_t n =
        m.parser->put(asio::buffer(m.buffer.data() + used, m.buffer.size() - used), code);
    used += n;
    if (code == http::error::need_more) {
      code = {};
      break;
    }
    if (code || n == 0) break;
  }
  m.buffer.erase(0, used);
  if (code) return m.fail(from_beast(code));
  if (m.parser->is_header_done() && !m.header_checked) {
    m.header_checked = true;
    if (auto e = objection(m.parser->get(), m.limits)) return m.fail(std::move(*e));
  }
  if (m.parser->is_done()) return m.now = state::complete;
  // A chunk's head or trailer that never ends.
  if (m.buffer.size() > m.limits.header_bytes)
    return m.fail(http_error(400, "The request is not valid HTTP."));
  return m.now = m.parser->is_header_done() ? state::body : state::header;
}

bool request_parser::take_expects_continue() {
  auto& m = *impl_;
  if (m.now != state::body || m.continue_told) return false;
  m.continue_told = true;
  const auto expect = m.parser->get()[http::field::expect];
  return lower({expect.data(), expect.size()}) == "100-continue";
}

http_request request_parser::take() {
  auto& m = *impl_;
  TROUPE_ASSERT(m.now == state::complete);
  http_request out;
  const bool keep_alive = m.parser->get().keep_alive();
  auto message = m.parser->release();
  out.method = std::string(message.method_string());
  out.target = std::string(message.target());
  out.version = message.version();
  out.keep_alive = keep_alive;
  for (const auto& field : message)
    out.headers.emplace_back(lower({field.name_string().data(), field.name_string().size()}),
                             std::string(field.value()));
  out.body = std::move(message.body());
  m.reset();
  m.now = state::idle;
  return out;
}

// -- responses, for clients
// ----------------------------------------------------------------------------------------------
struct response_parser::impl {
  http::response_parser<http::string_body> parser;
  std::string buffer;
};

response_parser::response_parser() : impl_(std::make_unique<impl>()) {
  impl_->parser.body_limit(boost::none);
  impl_->parser.header_limit(64u << 10);
  impl_->parser.eager(true);
}
response_parser::~response_parser() = default;

bool response_parser::push(std::string_view bytes, std::string& body) {
  auto& m = *impl_;
  m.buffer += bytes;
  std::size_t used = 0;
  boost::system::error_code code;
  while (used < m.buffer.size() && !m.parser.is_done()) {
    const std::size_t n =
        m.parser.put(asio::buffer(m.buffer.data() + used, m.buffer.size() - used), code);
    used += n;
    if (code || n == 0) break;
  }
  m.buffer.erase(0, used);
  if (code && code != http::error::need_more) return false;
  if (m.parser.is_header_done()) {
    body += m.parser.get().body();
    m.parser.get().body().clear();
  }
  return true;
}

bool response_parser::finish() {
  boost::system::error_code code;
  if (!impl_->parser.is_header_done()) return false;
  if (!impl_->parser.is_done()) impl_->parser.put_eof(code);
  return !code && impl_->parser.is_done();
}

bool response_parser::header_done() const {
  return impl_->parser.is_header_done();
}
bool response_parser::done() const {
  return impl_->parser.is_done();
}
int response_parser::status() const {
  return static_cast<int>(impl_->parser.get().result_int());
}
std::string response_parser::header(std::string_view name) const {
  return std::string(impl_->parser.get()[boost::beast::string_view(name.data(), name.size())]);
}

// -- bytes out
// -----------------------------------------------------------------------------------------------------------
std::string_view reason_phrase(int status) {
  const auto text = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  return {text.data(), text.size()};
}

std::string response_head(const http_response& response, unsigned version, bool keep_alive,
                          std::optional<std::size_t> length) {
  char date[64];
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &utc);
  std::string head = "HTTP/1.1 " + std::to_string(response.status) + " ";
  head += reason_phrase(response.status);
  head += "\r\nServer: troupe\r\nDate: ";
  head += date;
  head += "\r\nContent-Type: " + response.content_type + "\r\n";
  for (const auto& [name, value] : response.headers) {
    // A line break in a value would begin a header of somebody else's.
    TROUPE_ASSERT(value.find_first_of("\r\n") == std::string::npos);
    head += name + ": " + value + "\r\n";
  }
  if (length)
    head += "Content-Length: " + std::to_string(*length) + "\r\n";
  else if (version == 11)
    head += "Transfer-Encoding: chunked\r\n";
  if (!keep_alive)
    head += "Connection: close\r\n";
  else if (version == 10)
    head += "Connection: keep-alive\r\n";
  head += "\r\n";
  return head;
}

std::string body_chunk(std::string_view bytes) {
  static const char* digits = "0123456789abcdef";
  std::string size;
  for (std::size_t n = bytes.size(); n > 0; n >>= 4) size.insert(size.begin(), digits[n & 15]);
  std::string out;
  out.reserve(bytes.size() + size.size() + 4);
  out += size;
  out += "\r\n";
  out += bytes;
  out += "\r\n";
  return out;
}

}  // namespace troupe::api
