#include "actors/connect.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <caf/io/middleman.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "actors/system.hpp"
#include "actors/tls_middleman.hpp"
#include "base/result.hpp"

namespace troupe::actors {
namespace {

constexpr auto look_interval = std::chrono::milliseconds(5);
constexpr auto patience = std::chrono::seconds(3);            // with who is to answer
constexpr auto handshake_patience = std::chrono::seconds(5);  // with who is to prove the secret
// With CAF, which gives up sooner itself.
constexpr auto middleman_patience = std::chrono::seconds(10);

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
        std::swap(sockets_[i], sockets_.front());
        return state::answered;
      }
      std::swap(sockets_[i], sockets_.back());
      drop_last();
    }
    return sockets_.empty() ? state::refused : state::waiting;
  }
  // REQUIRES: answered. Who did, as a number; and the connection, which the caller closes.
  std::string number() const { return name_resolver::number_of_peer(sockets_.front().fd); }
  int take() {
    std::swap(sockets_.front(), sockets_.back());
    const int socket = sockets_.back().fd;
    sockets_.pop_back();
    return socket;
  }

 private:
  void drop_last() {
    ::close(sockets_.back().fd);
    sockets_.pop_back();
  }
  std::vector<pollfd> sockets_;  // one for each address of the host
};

bool has_input(int socket) {
  pollfd one{socket, POLLIN, 0};
  return ::poll(&one, 1, 0) == 1;
}

const system_config& config_of(caf::actor_system& system) {
  const auto* config = dynamic_cast<const system_config*>(&system.config());
  TROUPE_ASSERT(config != nullptr);
  return *config;
}

// CAF's, or with a secret one that connects to and lets in only who has it.
caf::io::middleman_actor middleman_of(caf::actor_system& system, std::shared_ptr<tls_lobby> lobby) {
  const auto& key = config_of(system).key;
  return key ? make_tls_middleman(system, key, std::move(lobby))
             : system.middleman().actor_handle();
}

using probing_actor = connector_actor::extend<caf::reacts_to<caf::tick_atom>>;
using answer = caf::result<caf::node_id, caf::strong_actor_ptr, std::set<std::string>>;
using promise =
    caf::typed_response_promise<caf::node_id, caf::strong_actor_ptr, std::set<std::string>>;

// CAF's middleman connects one after the other and blocks meanwhile, minutes for a host that swallows what it is sent;
// whoever else is to be reached would wait behind it. So it is asked only for what answers, by its number: it would look
// up a name itself. With a secret the connection that answered is kept: its handshake is made here, and the middleman is
// asked once the other end speaks, since CAF's heartbeat ends a connection on which nobody has spoken yet.
struct connector_state {
  static inline const char* name = "troupe.connector";
  explicit connector_state(probing_actor::pointer selfptr) : self(selfptr) {}
  using endpoint = tls_lobby::endpoint;
  using time_point = std::chrono::steady_clock::time_point;
  enum class state { waiting, answered, refused };
  struct attempt {
    std::shared_ptr<const name_resolver::lookup> name;
    time_point until;
    std::vector<promise> waiting;
    std::unique_ptr<probe> under_way;      // null: the name is looked up
    std::string number;                    // of who answered
    std::unique_ptr<tls_session> session;  // with a secret, once somebody answered
    bool asked = false;                    // the middleman was
  };

  state look(attempt& a, std::uint16_t port) const {
    if (!a.under_way && a.name->ended())
      a.under_way = std::make_unique<probe>(a.name->found(), port);
    if (!a.under_way) return state::waiting;
    if (a.number.empty()) {
      const auto seen = a.under_way->look();
      if (seen == probe::state::refused) return state::refused;
      if (seen == probe::state::waiting) return state::waiting;
      a.number = a.under_way->number();
      if (a.number.empty()) return state::refused;  // it has gone again
      if (!key) return state::answered;
      a.session =
          std::make_unique<tls_session>(*key, tls_session::side::connecting, a.under_way->take());
      a.until = std::chrono::steady_clock::now() + handshake_patience;
    }
    const auto shaken = a.session->handshake();
    if (shaken == tls_session::state::refused) return state::refused;
    const bool heard = shaken == tls_session::state::established && has_input(a.session->socket());
    return heard ? state::answered : state::waiting;
  }

  void look() {
    for (auto next = attempts.begin(); next != attempts.end();) {
      const auto at = next++;
      if (at->second.asked) continue;
      const auto seen = look(at->second, at->first.second);
      if (seen == state::answered)
        ask_middleman(at->first, at->second);
      else if (seen == state::refused || std::chrono::steady_clock::now() >= at->second.until)
        end(at->first, caf::make_error(caf::sec::cannot_connect_to_node));
    }
    ticking = std::ranges::any_of(attempts, [](const auto& a) { return !a.second.asked; });
    if (ticking) self->delayed_send(self, look_interval, caf::tick_atom_v);
  }

  void ask_middleman(const endpoint& wanted, attempt& a) {
    a.asked = true;
    a.under_way.reset();
    const endpoint at{a.number, wanted.second};
    if (a.session) lobby->put(at, std::move(a.session));
    self->request(middleman, middleman_patience, caf::connect_atom_v, at.first, at.second)
        .then(
            [=, this](const caf::node_id& node, const caf::strong_actor_ptr& actor,
                      const std::set<std::string>& interface) {
              lobby->take(at);  // left there if the middleman had another connection already
              end(wanted, node, actor, interface);
            },
            [=, this](const caf::error& why) {
              lobby->take(at);
              end(wanted, why);
            });
  }

  template <class... Outcome>
  void end(endpoint wanted, const Outcome&... outcome) {
    const auto at = attempts.extract(wanted);
    for (auto& w : at.mapped().waiting) w.deliver(outcome...);
  }

  probing_actor::pointer self;
  caf::io::middleman_actor middleman;
  name_resolver* names = nullptr;      // outlives the system
  std::shared_ptr<const tls_key> key;  // null: without a secret
  std::shared_ptr<tls_lobby> lobby = std::make_shared<tls_lobby>();
  std::map<endpoint, attempt> attempts;
  bool ticking = false;
};

probing_actor::behavior_type connector(probing_actor::stateful_pointer<connector_state> self) {
  const auto& config = config_of(self->system());
  self->state.names = config.names.get();
  self->state.key = config.key;
  self->state.middleman = middleman_of(self->system(), self->state.lobby);
  return {
      [self](caf::connect_atom, std::string& host, std::uint16_t port) -> answer {
        auto& s = self->state;
        auto made = self->make_response_promise<caf::node_id, caf::strong_actor_ptr,
                                                std::set<std::string>>();
        auto at = s.attempts.find({host, port});
        if (at == s.attempts.end()) {
          connector_state::attempt a;
          a.name = s.names->look_up(host);
          a.until = std::chrono::steady_clock::now() + patience;
          at = s.attempts.emplace(connector_state::endpoint(host, port), std::move(a)).first;
        }
        at->second.waiting.push_back(made);
        if (!at->second.asked && !std::exchange(s.ticking, true))
          self->send(self, caf::tick_atom_v);
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

caf::expected<std::uint16_t> publish(caf::actor_system& system, const caf::strong_actor_ptr& actor,
                                     const std::set<std::string>& interface,
                                     const std::string& host, std::uint16_t port) {
  caf::expected<std::uint16_t> outcome = caf::sec::cannot_open_port;
  caf::scoped_actor self{system};
  self->request(middleman_of(system, nullptr), middleman_patience, caf::publish_atom_v, port, actor,
                interface, host, reuse_address)
      .receive([&](std::uint16_t opened) { outcome = opened; },
               [&](caf::error& why) { outcome = std::move(why); });
  return outcome;
}

}  // namespace troupe::actors
