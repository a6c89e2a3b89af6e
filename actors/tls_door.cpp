#include "actors/tls_door.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "actors/name_resolver.hpp"
#include "base/log.hpp"
#include "base/result.hpp"

namespace troupe::actors {
namespace {

// Connections taken between two looks at the handshakes.
constexpr int accept_at_once = 64;
// After the system had no descriptor for a connection.
constexpr std::chrono::milliseconds shortage_pause{100};
// Between two lines of the log about connections that were refused.
constexpr std::chrono::seconds telling_pause{10};

std::array<std::atomic<std::uint64_t>, std::size(all_tls_refusals)> refused_of_process{};

void ring(int event) {
  const std::uint64_t one = 1;
  TROUPE_ASSERT(::write(event, &one, sizeof one) == sizeof one);
}

int make_event(int flags) {
  const int made = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC | flags);
  TROUPE_ASSERT(made >= 0);
  return made;
}

}  // namespace

std::uint64_t connections_refused(tls_refusal why) {
  return refused_of_process[static_cast<std::size_t>(why)];
}

tls_door::tls_door(std::shared_ptr<const tls_key> key, int listening, limits bounds)
    : key_(std::move(key)),
      listening_(listening),
      ready_(make_event(EFD_SEMAPHORE)),
      wake_(make_event(0)),
      bounds_(bounds),
      thread_([this] { run(); }) {}

tls_door::~tls_door() {
  stopping_ = true;
  ring(wake_);
  thread_.join();
  for (int fd : {listening_, ready_, wake_}) ::close(fd);
}

std::unique_ptr<tls_session> tls_door::take() {
  std::lock_guard lock(mutex_);
  std::uint64_t one = 0;
  if (in_.empty() || ::read(ready_, &one, sizeof one) != sizeof one) return nullptr;
  auto first = std::move(in_.front());
  in_.pop_front();
  return first;
}

void tls_door::run() {
  std::vector<pollfd> watched;
  while (!stopping_) {
    auto now = std::chrono::steady_clock::now();
    watched.assign({{wake_, POLLIN, 0}, {now < accept_next_ ? -1 : listening_, POLLIN, 0}});
    for (const auto& g : guests_)
      watched.push_back({g.session->socket(),
                         static_cast<short>(g.session->wants_write() ? POLLOUT : POLLIN), 0});
    ::poll(watched.data(), watched.size(), pause(now));
    now = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < guests_.size(); ++i) {
      if (watched[i + 2].revents != 0) advance(guests_[i]);
      if (!guests_[i].over && guests_[i].until <= now) refuse(guests_[i], tls_refusal::silent);
    }
    std::erase_if(guests_, [](const guest& g) { return g.over; });
    if (watched[1].revents != 0) welcome(now);
    tell(now);
  }
}

int tls_door::pause(time_point now) const {
  auto next = time_point::max();
  if (!guests_.empty()) next = guests_.front().until;
  if (now < accept_next_) next = std::min(next, accept_next_);
  if (refused_ > 0) next = std::min(next, tell_next_);
  if (next == time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
  return static_cast<int>(std::max<std::int64_t>(left, 0));
}

void tls_door::advance(guest& g) {
  const auto state = g.session->handshake();
  if (state == tls_session::state::waiting) return;
  if (state == tls_session::state::refused) {
    // Who hangs up without a word, as those do who look whether somebody listens, asked for nothing.
    if (g.session->heard()) refuse(g, g.session->why());
    g.over = true;
    return;
  }
  {
    std::lock_guard lock(mutex_);
    in_.push_back(std::move(g.session));
  }
  g.over = true;
  ring(ready_);
}

void tls_door::welcome(time_point now) {
  for (int i = 0; i < accept_at_once; ++i) {
    const int socket = ::accept4(listening_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket < 0) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        accept_next_ = now + shortage_pause;
      return;
    }
    if (guests_.size() >= bounds_.handshakes) {
      refuse(guests_.front(), tls_refusal::overload);
      guests_.pop_front();
    }
    guests_.push_back({std::make_unique<tls_session>(*key_, tls_session::side::accepting, socket),
                       now + bounds_.patience});
  }
}

void tls_door::refuse(guest& g, tls_refusal why) {
  ++refused_of_process[static_cast<std::size_t>(why)];
  ++refused_;
  refused_last_ =
      name_resolver::number_of_peer(g.session->socket()) + ", as " + std::string(to_string(why));
  g.over = true;
}

void tls_door::tell(time_point now) {
  if (refused_ == 0 || now < tell_next_) return;
  spdlog::warn(
      "actors: {} connections were refused, the last from {}: somebody who is not of this cluster, "
      "or has another --cluster-secret-file, knocks at the port of actors",
      std::exchange(refused_, 0), refused_last_);
  tell_next_ = now + telling_pause;
}

}  // namespace troupe::actors
