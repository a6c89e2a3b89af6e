#include "actors/connect.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <caf/io/middleman.hpp>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace troupe::actors {
namespace {

constexpr auto look_interval = std::chrono::milliseconds(5);
constexpr auto patience = std::chrono::seconds(3);

// A connection under way, to learn whether anybody answers at an address.
class probe {
 public:
  probe(const std::string& host, std::uint16_t port) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    addrinfo* found = nullptr;
    if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return;
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> all(found, ::freeaddrinfo);
    for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
      const int s = ::socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
      if (s < 0) continue;
      sockets_.push_back({s, POLLOUT, 0});
      if (::connect(s, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS) drop_last();
    }
  }
  probe(probe&& other) noexcept : sockets_(std::exchange(other.sockets_, {})) {}
  probe& operator=(probe&&) = delete;
  ~probe() {
    while (!sockets_.empty()) drop_last();
  }

  enum class state { waiting, answered, refused };
  state look() {
    ::poll(sockets_.data(), sockets_.size(), 0);
    for (std::size_t i = 0; i < sockets_.size();) {
      int failure = 0;
      socklen_t size = sizeof failure;
      if (sockets_[i].revents == 0) {
        ++i;
        continue;
      }
      if (::getsockopt(sockets_[i].fd, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 && failure == 0)
        return state::answered;
      std::swap(sockets_[i], sockets_.back());
      drop_last();
    }
    return sockets_.empty() ? state::refused : state::waiting;
  }

 private:
  void drop_last() {
    ::close(sockets_.back().fd);
    sockets_.pop_back();
  }
  std::vector<pollfd> sockets_;  // one for each address of the host
};

using probing_actor = connector_actor::extend<caf::reacts_to<caf::tick_atom>>;
using answer = caf::result<caf::node_id, caf::strong_actor_ptr, std::set<std::string>>;
using promise =
    caf::typed_response_promise<caf::node_id, caf::strong_actor_ptr, std::set<std::string>>;

// CAF's middleman connects one after the other and blocks meanwhile, minutes for a host that swallows what it is sent;
// whoever else is to be reached would wait behind it. So it is asked only for what answers.
struct connector_state {
  static inline const char* name = "troupe.connector";
  explicit connector_state(probing_actor::pointer selfptr) : self(selfptr) {}
  using endpoint = std::pair<std::string, std::uint16_t>;
  struct attempt {
    probe under_way;
    std::chrono::steady_clock::time_point until;
    std::vector<promise> waiting;
  };

  void look() {
    for (auto next = attempts.begin(); next != attempts.end();) {
      const auto at = next++;
      auto state = at->second.under_way.look();
      if (state == probe::state::waiting) {
        if (std::chrono::steady_clock::now() < at->second.until) continue;
        state = probe::state::refused;
      }
      for (auto& w : at->second.waiting) {
        if (state == probe::state::answered)
          w.delegate(middleman, caf::connect_atom_v, at->first.first, at->first.second);
        else
          w.deliver(make_error(caf::sec::cannot_connect_to_node));
      }
      attempts.erase(at);
    }
    ticking = !attempts.empty();
    if (ticking) self->delayed_send(self, look_interval, caf::tick_atom_v);
  }

  probing_actor::pointer self;
  caf::io::middleman_actor middleman;
  std::map<endpoint, attempt> attempts;
  bool ticking = false;
};

probing_actor::behavior_type connector(probing_actor::stateful_pointer<connector_state> self) {
  self->state.middleman = self->system().middleman().actor_handle();
  return {
      [self](caf::connect_atom, std::string& host, std::uint16_t port) -> answer {
        auto& s = self->state;
        auto made = self->make_response_promise<caf::node_id, caf::strong_actor_ptr,
                                                std::set<std::string>>();
        auto at = s.attempts.find({host, port});
        if (at == s.attempts.end()) {
          connector_state::attempt a{
              probe(host, port), std::chrono::steady_clock::now() + patience, {}};
          at = s.attempts.emplace(connector_state::endpoint(host, port), std::move(a)).first;
        }
        at->second.waiting.push_back(made);
        if (!std::exchange(s.ticking, true)) self->send(self, caf::tick_atom_v);
        return made;
      },
      [self](caf::tick_atom) { self->state.look(); },
  };
}

}  // namespace

connector_actor product_connector(caf::actor_system& system) {
  // Hidden: whoever holds the handle ends with the system; it need not be waited for.
  return system.spawn<caf::hidden>(connector);
}

}  // namespace troupe::actors
