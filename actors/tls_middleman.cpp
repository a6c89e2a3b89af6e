#include "actors/tls_middleman.hpp"

#include <fcntl.h>

#include <caf/io/basp_broker.hpp>
#include <caf/io/doorman.hpp>
#include <caf/io/middleman.hpp>
#include <caf/io/middleman_actor_impl.hpp>
#include <caf/io/network/acceptor_impl.hpp>
#include <caf/io/network/default_multiplexer.hpp>
#include <caf/io/network/stream_impl.hpp>
#include <caf/io/scribe.hpp>

#include "actors/tls_door.hpp"
#include "base/result.hpp"

namespace troupe::actors {
namespace {

namespace io = caf::io;
namespace network = caf::io::network;
using event_loop = network::default_multiplexer;

// What is asked of a socket, which may be gone.
template <class T>
T or_none(const caf::expected<T>& found) {
  return found ? *found : T{};
}

// What CAF's event loop does with a socket, done with a session.
class tls_stream_policy {
 public:
  explicit tls_stream_policy(std::unique_ptr<tls_session> session) : session_(std::move(session)) {}

  network::rw_state read_some(std::size_t& bytes, network::native_socket, void* to,
                              std::size_t size) {
    return told(bytes, session_->read({static_cast<std::byte*>(to), size}));
  }
  network::rw_state write_some(std::size_t& bytes, network::native_socket, const void* from,
                               std::size_t size) {
    return told(bytes, session_->write({static_cast<const std::byte*>(from), size}));
  }
  // What the session holds wakes nobody.
  bool must_read_more(network::native_socket, std::size_t) const { return session_->holds_more(); }

 private:
  static network::rw_state told(std::size_t& bytes, std::optional<std::size_t> outcome) {
    bytes = outcome.value_or(0);
    return outcome ? network::rw_state::success : network::rw_state::failure;
  }
  std::unique_ptr<tls_session> session_;
};

class tls_scribe : public io::scribe {
 public:
  tls_scribe(event_loop& loop, int socket, std::unique_ptr<tls_session> session)
      : scribe(network::conn_hdl_from_socket(socket)), stream_(loop, socket, std::move(session)) {}
  static io::scribe_ptr make(event_loop& loop, std::unique_ptr<tls_session> session) {
    const int socket = session->socket();
    session->keep_socket();  // the stream closes it
    return caf::make_counted<tls_scribe>(loop, socket, std::move(session));
  }

  void configure_read(io::receive_policy::config config) override {
    stream_.configure_read(config);
    if (!std::exchange(launched_, true)) stream_.start(this);
  }
  void ack_writes(bool enable) override { stream_.ack_writes(enable); }
  std::vector<char>& wr_buf() override { return stream_.wr_buf(); }
  std::vector<char>& rd_buf() override { return stream_.rd_buf(); }
  void flush() override { stream_.flush(this); }
  void graceful_shutdown() override {
    stream_.graceful_shutdown();
    detach(&stream_.backend(), false);
  }
  std::string addr() const override { return or_none(network::remote_addr_of_fd(stream_.fd())); }
  std::uint16_t port() const override { return or_none(network::remote_port_of_fd(stream_.fd())); }
  void add_to_loop() override { stream_.activate(this); }
  void remove_from_loop() override { stream_.passivate(); }

 private:
  network::stream_impl<tls_stream_policy> stream_;
  bool launched_ = false;
};

// What it "accepts" is who came in by the door.
struct tls_accept_policy {
  tls_door& door;
  std::unique_ptr<tls_session>& next;
  bool try_accept(network::native_socket& socket, network::native_socket) {
    next = door.take();
    if (next) socket = next->socket();
    return next != nullptr;
  }
};

class tls_doorman : public io::doorman {
 public:
  tls_doorman(event_loop& loop, std::unique_ptr<tls_door> door, int ready)
      : doorman(network::accept_hdl_from_socket(ready)),
        door_(std::move(door)),
        acceptor_(loop, ready, tls_accept_policy{*door_, next_}) {}

  bool new_connection() override {
    if (detached()) return false;  // the broker has closed it; the event loop is about to
    auto& loop = acceptor_.backend();
    auto made = tls_scribe::make(loop, std::move(next_));
    const auto handle = made->hdl();
    parent()->add_scribe(std::move(made));
    return doorman::new_connection(&loop, handle);
  }
  void graceful_shutdown() override { detach(&acceptor_.backend(), false); }
  void launch() override { acceptor_.start(this); }
  std::string addr() const override {
    return or_none(network::local_addr_of_fd(door_->listening()));
  }
  std::uint16_t port() const override {
    return or_none(network::local_port_of_fd(door_->listening()));
  }
  void add_to_loop() override { acceptor_.activate(this); }
  void remove_from_loop() override { acceptor_.passivate(); }

 private:
  std::unique_ptr<tls_door> door_;
  std::unique_ptr<tls_session> next_;
  network::acceptor_impl<tls_accept_policy> acceptor_;
};

class tls_middleman : public io::middleman_actor_impl {
 public:
  tls_middleman(caf::actor_config& config, caf::actor broker, std::shared_ptr<const tls_key> key,
                std::shared_ptr<tls_lobby> lobby)
      : middleman_actor_impl(config, std::move(broker)),
        key_(std::move(key)),
        lobby_(std::move(lobby)) {}
  const char* name() const override { return "troupe.tls_middleman"; }

 protected:
  caf::expected<io::scribe_ptr> connect(const std::string& host, std::uint16_t port) override {
    auto session = lobby_->take({host, port});
    if (!session) return caf::sec::cannot_connect_to_node;
    return tls_scribe::make(loop(), std::move(session));
  }
  caf::expected<io::doorman_ptr> open(std::uint16_t port, const char* address,
                                      bool reuse) override {
    auto listening = network::new_tcp_acceptor_impl(port, address, reuse);
    if (!listening) return std::move(listening.error());
    network::nonblocking(*listening, true);
    auto door = std::make_unique<tls_door>(key_, *listening, tls_door::limits{});
    const int ready = ::fcntl(door->ready(), F_DUPFD_CLOEXEC, 0);  // the acceptor closes its own
    if (ready < 0) return caf::sec::cannot_open_port;
    return caf::make_counted<tls_doorman>(loop(), std::move(door), ready);
  }

 private:
  event_loop& loop() { return static_cast<event_loop&>(system().middleman().backend()); }
  const std::shared_ptr<const tls_key> key_;
  const std::shared_ptr<tls_lobby> lobby_;
};

}  // namespace

void tls_lobby::put(const endpoint& at, std::unique_ptr<tls_session> session) {
  std::lock_guard lock(mutex_);
  waiting_[at] = std::move(session);
}

std::unique_ptr<tls_session> tls_lobby::take(const endpoint& at) {
  std::lock_guard lock(mutex_);
  const auto found = waiting_.extract(at);
  return found ? std::move(found.mapped()) : nullptr;
}

caf::io::middleman_actor make_tls_middleman(caf::actor_system& system,
                                            std::shared_ptr<const tls_key> key,
                                            std::shared_ptr<tls_lobby> lobby) {
  return system.spawn<tls_middleman, caf::hidden>(
      system.middleman().named_broker<io::basp_broker>(caf::atom("BASP")), std::move(key),
      std::move(lobby));
}

}  // namespace troupe::actors
