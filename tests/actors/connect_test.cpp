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
#include <condition_variable>
#include <mutex>
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
  ~connect_test() override { answer_names(); }

  // Whether an actor was found there; within half a minute.
  bool reached(std::uint16_t port, const std::string& host = "127.0.0.1") {
    caf::scoped_actor self{system};
    bool found = false;
    self->request(connector, 30s, caf::connect_atom_v, host, port)
        .receive([&](const caf::node_id&, const caf::strong_actor_ptr& a,
                     const std::set<std::string>&) { found = a != nullptr; },
                 [](const caf::error&) {});
    return found;
  }

  // "here" is this host; whoever asks for "silent..." waits until answer_names(), as for a name server that is dead.
  name_resolver::addresses ask_names(const std::string& host) {
    if (host == "here") return name_resolver::ask_system("127.0.0.1");
    if (!host.starts_with("silent")) return name_resolver::ask_system(host);
    std::unique_lock lock(mutex);
    ++silent_asked;
    names_change.notify_all();
    names_change.wait(lock, [this] { return names_answered; });
    return {};
  }
  void answer_names() {
    std::lock_guard lock(mutex);
    names_answered = true;
    names_change.notify_all();
  }

  std::mutex mutex;
  std::condition_variable names_change;
  bool names_answered = false;
  int silent_asked = 0;
  system_config config{local(), [this](const std::string& host) { return ask_names(host); }};
  system_config other_config{local()};
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

TEST_F(connect_test, names_that_nobody_answers_for_hold_up_nobody_else) {
  auto actor =
      other.spawn([](caf::event_based_actor*) -> caf::behavior { return {[](caf::tick_atom) {}}; });
  const auto port = other.middleman().publish(actor, 0, "127.0.0.1");
  ASSERT_TRUE(port);
  EXPECT_TRUE(reached(*port, "here"));
  caf::scoped_actor self{system};
  const auto ask = [&](int i) {  // more of them than are looked up at once
    return self->request(connector, 60s, caf::connect_atom_v, "silent-" + std::to_string(i),
                         std::uint16_t{1});
  };
  std::vector<decltype(ask(0))> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(ask(i));
  {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(names_change.wait_for(lock, 30s, [this] { return silent_asked > 0; }));
  }
  EXPECT_TRUE(reached(*port));
  int refused = 0;  // while nobody has answered yet
  for (auto& s : silent)
    s.receive(
        [](const caf::node_id&, const caf::strong_actor_ptr&, const std::set<std::string>&) {},
        [&](const caf::error& e) { refused += e == caf::sec::cannot_connect_to_node; });
  EXPECT_EQ(refused, 8);
  caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
}

}  // namespace
}  // namespace troupe::actors
