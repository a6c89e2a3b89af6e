#include "actors/connect.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <caf/io/middleman.hpp>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "actors/system.hpp"
#include "base/result.hpp"

namespace troupe::actors {
namespace {

constexpr auto look_interval = std::chrono::milliseconds(5);
constexpr auto patience = std::chrono::seconds(3);

// A connection under way, to learn whether anybody answers at an address.
class probe {
 public:
  probe(const name_resolver::addresses& host, std::uint16_t port) {
    for (auto a : host) {
      // The port is at one place in both families.
      static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
      reinterpret_cast<sockaddr_in&>(a.at).sin_port = htons(port);
      const int s = ::socket(a.at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
      if (s < 0) continue;
      sockets_.push_back({s, POLLOUT, 0});
      if (::connect(s, reinterpret_cast<const sockaddr*>(&a.at), a.size) != 0 &&
          errno != EINPROGRESS)
        drop_last();
    }
  }
  probe(const probe&) = delete;
  probe& operator=(const probe&) = delete;
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
      if (::getsockopt(sockets_[i].fd, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 &&
          failure == 0) {
        answered_ = number_of(sockets_[i].fd);
        return state::answered;
      }
      std::swap(sockets_[i], sockets_.back());
      drop_last();
    }
    return sockets_.empty() ? state::refused : state::waiting;
  }
  const std::string& answered() const { return answered_; }  // who did, as a number

 private:
  static std::string number_of(int connected) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    char text[NI_MAXHOST] = {};
    auto* at = reinterpret_cast<sockaddr*>(&peer);
    if (::getpeername(connected, at, &size) != 0 ||
        ::getnameinfo(at, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0)
      return {};
    return text;
  }
  void drop_last() {
    ::close(sockets_.back().fd);
    sockets_.pop_back();
  }
  std::vector<pollfd> sockets_;  // one for each address of the host
  std::string answered_;
};

using probing_actor = connector_actor::extend<caf::reacts_to<caf::tick_atom>>;
using answer = caf::result<caf::node_id, caf::strong_actor_ptr, std::set<std::string>>;
using promise =
    caf::typed_response_promise<caf::node_id, caf::strong_actor_ptr, std::set<std::string>>;

// CAF's middleman connects one after the other and blocks meanwhile, minutes for a host that swallows what it is sent;
// whoever else is to be reached would wait behind it. So it is asked only for what answers, by its number: it would look
// up a name itself.
struct connector_state {
  static inline const char* name = "troupe.connector";
  explicit connector_state(probing_actor::pointer selfptr) : self(selfptr) {}
  using endpoint = std::pair<std::string, std::uint16_t>;
  struct attempt {
    std::shared_ptr<const name_resolver::lookup> name;
    std::unique_ptr<probe> under_way;  // null: the name is looked up
    std::chrono::steady_clock::time_point until;
    std::vector<promise> waiting;

    probe::state look(std::uint16_t port) {
      if (!under_way && name->ended()) under_way = std::make_unique<probe>(name->found(), port);
      const auto state = under_way ? under_way->look() : probe::state::waiting;
      const bool late = std::chrono::steady_clock::now() >= until;
      return state == probe::state::waiting && late ? probe::state::refused : state;
    }
  };

  void look() {
    for (auto next = attempts.begin(); next != attempts.end();) {
      const auto at = next++;
      const auto state = at->second.look(at->first.second);
      if (state == probe::state::waiting) continue;
      for (auto& w : at->second.waiting) {
        if (state == probe::state::answered)
          w.delegate(middleman, caf::connect_atom_v, at->second.under_way->answered(),
                     at->first.second);
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
  name_resolver* names = nullptr;  // outlives the system
  std::map<endpoint, attempt> attempts;
  bool ticking = false;
};

probing_actor::behavior_type connector(probing_actor::stateful_pointer<connector_state> self,
                                       name_resolver* names) {
  self->state.names = names;
  self->state.middleman = self->system().middleman().actor_handle();
  return {
      [self](caf::connect_atom, std::string& host, std::uint16_t port) -> answer {
        auto& s = self->state;
        auto made = self->make_response_promise<caf::node_id, caf::strong_actor_ptr,
                                                std::set<std::string>>();
        auto at = s.attempts.find({host, port});
        if (at == s.attempts.end()) {
          connector_state::attempt a{
              s.names->look_up(host), nullptr, std::chrono::steady_clock::now() + patience, {}};
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
  const auto* config = dynamic_cast<const system_config*>(&system.config());
  TROUPE_ASSERT(config != nullptr);
  // Hidden: whoever holds the handle ends with the system; it need not be waited for.
  return system.spawn<caf::hidden>(connector, config->names.get());
}

}  // namespace troupe::actors
