#include "actors/name_resolver.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <resolv.h>

#include <cstring>

namespace troupe::actors {
namespace {

constexpr std::size_t most_threads = 4;

name_resolver::addresses addresses_of(const std::string& host, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  name_resolver::addresses all;
  if (::getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return all;
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    if (a->ai_addrlen > sizeof(sockaddr_storage)) continue;
    all.emplace_back().size = a->ai_addrlen;
    std::memcpy(&all.back().at, a->ai_addr, a->ai_addrlen);
  }
  return all;
}

}  // namespace

name_resolver::addresses name_resolver::ask_system(const std::string& host) {
  return addresses_of(host, 0);
}

std::string name_resolver::number_of_peer(int socket) {
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  char text[NI_MAXHOST] = {};
  auto* at = reinterpret_cast<sockaddr*>(&peer);
  if (::getpeername(socket, at, &size) != 0 ||
      ::getnameinfo(at, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0)
    return {};
  return text;
}

name_resolver::~name_resolver() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (auto& t : threads_) t.join();
}

std::shared_ptr<const name_resolver::lookup> name_resolver::look_up(const std::string& host) {
  auto made = std::make_shared<lookup>();
  made->host_ = host;
  if (auto number = addresses_of(host, AI_NUMERICHOST); !number.empty()) {
    made->end(std::move(number));
    return made;
  }
  std::lock_guard lock(mutex_);
  std::erase_if(waiting_, [](const auto& l) { return l.expired(); });
  waiting_.push_back(made);
  if (waiting_.size() > idle_ && threads_.size() < most_threads)
    threads_.emplace_back([this] { run(); });
  wake_.notify_one();
  return made;
}

void name_resolver::run() {
  pthread_setname_np(::pthread_self(), "names");
  // Each server of /etc/resolv.conf is asked once: what is silent holds up neither other names nor the end for long.
  if (::res_init() == 0) {
    _res.retrans = 1;  // seconds
    _res.retry = 1;
  }
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    --idle_;
    if (stopping_) return;
    const auto next = waiting_.front().lock();
    waiting_.pop_front();
    if (!next) continue;
    lock.unlock();
    next->end(ask_(next->host_));
    lock.lock();
  }
}

}  // namespace troupe::actors
