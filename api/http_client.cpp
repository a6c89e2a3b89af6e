#include "api/http_client.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "api/config.hpp"
#include "api/http_codec.hpp"

namespace troupe::api {
namespace {

using clock = std::chrono::steady_clock;

class descriptor {
 public:
  explicit descriptor(int fd = -1) : fd_(fd) {}
  ~descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  descriptor(descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string where(const url& to) {
  return to.host + ":" + std::to_string(to.port);
}

result<void> wait(int fd, short events, clock::time_point deadline, const url& to) {
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - clock::now()).count();
    if (left <= 0) return fail(ec::deadline_exceeded, where(to) + " did not answer in time");
    pollfd p{fd, events, 0};
    const int n = ::poll(&p, 1, static_cast<int>(std::min<long long>(left, 60'000)));
    if (n > 0) return {};
    if (n < 0 && errno != EINTR) return fail(ec::io_error, std::strerror(errno));
  }
}

result<descriptor> connect(const url& to, clock::time_point deadline) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int code =
          ::getaddrinfo(to.host.c_str(), std::to_string(to.port).c_str(), &hints, &found);
      code != 0)
    return fail(ec::io_error, "cannot find " + to.host + ": " + gai_strerror(code));
  std::string reason = "no address";
  for (const addrinfo* a = found; a; a = a->ai_next) {
    descriptor fd(::socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (fd.get() < 0) {
      reason = std::strerror(errno);
      continue;
    }
    if (::connect(fd.get(), a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS) {
      reason = std::strerror(errno);
      continue;
    }
    int code = 0;
    socklen_t size = sizeof code;
    if (auto ok = wait(fd.get(), POLLOUT, deadline, to); !ok) {
      reason = ok.error().detail;
      continue;
    }
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &code, &size);
    if (code != 0) {
      reason = std::strerror(code);
      continue;
    }
    const int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::freeaddrinfo(found);
    return fd;
  }
  ::freeaddrinfo(found);
  return fail(ec::io_error, "cannot reach " + where(to) + ": " + reason);
}

result<void> send_all(int fd, std::string_view bytes, clock::time_point deadline, const url& to) {
  while (!bytes.empty()) {
    TROUPE_CHECK(wait(fd, POLLOUT, deadline, to));
    const auto n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
      // The server may have answered and closed before it took everything.
      if (errno == EPIPE || errno == ECONNRESET) return {};
      return fail(ec::io_error, where(to) + ": " + std::strerror(errno));
    }
    if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

result<url> parse_url(const std::string& text) {
  static constexpr std::string_view http = "http://";
  if (text.rfind("https://", 0) == 0)
    return fail(ec::unsupported, "--url '" + text + "': this client speaks plain http:// only");
  std::string rest = text.rfind(http, 0) == 0 ? text.substr(http.size()) : text;
  url out;
  const auto slash = rest.find('/');
  if (slash != std::string::npos) {
    out.base = rest.substr(slash);
    while (!out.base.empty() && out.base.back() == '/') out.base.pop_back();
    rest.resize(slash);
  }
  // The colons inside [::1] are no port's.
  const auto colon = rest.rfind(':'), bracket = rest.rfind(']');
  const bool has_port =
      colon != std::string::npos && (bracket == std::string::npos || colon > bracket);
  TROUPE_TRY(auto pair, parse_host_port(has_port ? rest : rest + ":80", "--url"));
  out.host = std::move(pair.first);
  out.port = pair.second;
  return out;
}

result<client_response> send_request(const url& to, const client_request& request,
                                     const body_function& on_body) {
  const auto deadline = clock::now() + request.timeout;
  TROUPE_TRY(auto fd, connect(to, std::min(deadline, clock::now() + request.connect_timeout)));
  std::string head = request.method + " " + to.base + request.path +
                     " HTTP/1.1\r\nHost: " + where(to) +
                     "\r\nUser-Agent: troupe\r\nConnection: close\r\n";
  if (!request.key.empty()) head += "Authorization: Bearer " + request.key + "\r\n";
  if (!request.body.empty())
    head +=
        "Content-Type: application/json\r\nContent-Length: " + std::to_string(request.body.size()) +
        "\r\n";
  TROUPE_CHECK(send_all(fd.get(), head + "\r\n" + request.body, deadline, to));

  response_parser parser;
  client_response out;
  char buffer[16384];
  while (!parser.done()) {
    TROUPE_CHECK(wait(fd.get(), POLLIN, deadline, to));
    const auto n = ::recv(fd.get(), buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n < 0) return fail(ec::io_error, where(to) + " broke off: " + std::strerror(errno));
    if (n == 0) {
      if (!parser.finish())
        return fail(ec::io_error, where(to) + " closed the connection in the middle of its answer");
      break;
    }
    if (!parser.push({buffer, static_cast<std::size_t>(n)}, out.body))
      return fail(ec::io_error, where(to) + " does not speak HTTP");
    if (on_body && parser.header_done() && parser.status() == 200 && !out.body.empty()) {
      if (!on_body(out.body)) return fail(ec::canceled, "stopped");
      out.body.clear();
    }
  }
  out.status = parser.status();
  return out;
}

std::string error_message(const client_response& response) {
  const auto body = nlohmann::json::parse(response.body, nullptr, false);
  if (body.is_object() && body.contains("error") && body["error"].is_object() &&
      body["error"].contains("message") && body["error"]["message"].is_string())
    return body["error"]["message"].get<std::string>();
  return "the server answered with status " + std::to_string(response.status);
}

}  // namespace troupe::api
