// The way to other processes, past hosts that swallow what they are sent.
#include "actors/connect.hpp"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <caf/actor_system.hpp>
#include <caf/event_based_actor.hpp>
#include <caf/io/middleman.hpp>
#include <caf/scoped_actor.hpp>
#include <vector>

#include "actors/interfaces.hpp"
#include "actors/system.hpp"

namespace troupe::actors {
namespace {

using namespace std::chrono_literals;

// A listener whose queue is full: the system drops whoever else wants to connect.
class deaf_port {
 public:
  deaf_port() {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    at_.sin_family = AF_INET;
    at_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at_;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&at_), sizeof at_), 0);
    EXPECT_EQ(::listen(listener_, 0), 0);
    EXPECT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&at_), &size), 0);
    for (int i = 0; i < 4; ++i) {
      fillers_.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
      ::connect(fillers_.back(), reinterpret_cast<const sockaddr*>(&at_), sizeof at_);
    }
  }
  ~deaf_port() {
    for (int s : fillers_) ::close(s);
    ::close(listener_);
  }
  std::uint16_t number() const { return ntohs(at_.sin_port); }

 private:
  sockaddr_in at_{};
  int listener_ = -1;
  std::vector<int> fillers_;
};

struct connect_test : ::testing::Test {
  static network_settings local() {
    network_settings n;
    n.host = "127.0.0.1";
    return n;
  }
  // Whether an actor was found there; within half a minute.
  bool reached(std::uint16_t port) {
    caf::scoped_actor self{system};
    bool found = false;
    self->request(connector, 30s, caf::connect_atom_v, std::string("127.0.0.1"), port)
        .receive([&](const caf::node_id&, const caf::strong_actor_ptr& a,
                     const std::set<std::string>&) { found = a != nullptr; },
                 [](const caf::error&) {});
    return found;
  }

  system_config config{local()}, other_config{local()};
  caf::actor_system system{config}, other{other_config};
  connector_actor connector = product_connector(system);
};

TEST_F(connect_test, finds_an_actor_while_another_host_keeps_silent) {
  auto actor =
      other.spawn([](caf::event_based_actor*) -> caf::behavior { return {[](caf::tick_atom) {}}; });
  const auto port = other.middleman().publish(actor, 0, "127.0.0.1");
  ASSERT_TRUE(port);
  deaf_port deaf;
  caf::scoped_actor self{system};
  auto silent =
      self->request(connector, 60s, caf::connect_atom_v, std::string("127.0.0.1"), deaf.number());
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(reached(*port));
  bool refused = false;
  silent.receive(
      [](const caf::node_id&, const caf::strong_actor_ptr&, const std::set<std::string>&) {},
      [&](const caf::error&) { refused = true; });
  EXPECT_TRUE(refused);
  EXPECT_LT(std::chrono::steady_clock::now() - begin,
            30s);  // the system itself tries for two minutes
  caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
}

TEST_F(connect_test, a_port_where_nobody_listens_is_refused_at_once) {
  std::uint16_t closed = 0;
  {
    deaf_port gone;
    closed = gone.number();
  }
  EXPECT_FALSE(reached(closed));
}

TEST_F(connect_test, a_name_that_is_none_is_refused) {
  caf::scoped_actor self{system};
  bool refused = false;
  self->request(connector, 60s, caf::connect_atom_v, std::string("no host.invalid"),
                std::uint16_t{1})
      .receive(
          [](const caf::node_id&, const caf::strong_actor_ptr&, const std::set<std::string>&) {},
          [&](const caf::error&) { refused = true; });
  EXPECT_TRUE(refused);
}

}  // namespace
}  // namespace troupe::actors
