#include "actors/listen_check.hpp"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace troupe::actors {

result<void> check_listen(const std::string& host, std::uint16_t port, const std::string& flags) {
  const std::string where = host + ":" + std::to_string(port);
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  // As the server does, which takes the first address of a name.
  const char* name = host == "localhost" ? "127.0.0.1" : host.c_str();
  if (const int code = ::getaddrinfo(name, std::to_string(port).c_str(), &hints, &found); code != 0)
    return fail(ec::invalid_argument,
                flags + ": '" + host + "' cannot be resolved: " + ::gai_strerror(code));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail(ec::io_error, flags + ": " + std::strerror(errno));
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool listens = ::bind(fd, found->ai_addr, found->ai_addrlen) == 0 && ::listen(fd, 1) == 0;
  const int why = errno;
  ::close(fd);
  if (listens) return {};
  if (why == EADDRINUSE)
    return fail(ec::address_in_use,
                flags + ": " + where + " is in use by another program; choose another port");
  if (why == EADDRNOTAVAIL)
    return fail(ec::invalid_argument, flags + ": '" + host + "' is no address of this machine");
  return fail(ec::io_error, flags + ": cannot listen on " + where + ": " + std::strerror(why));
}

}  // namespace troupe::actors
