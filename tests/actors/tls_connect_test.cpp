// Actors of two processes reach each other through CAF with the cluster's secret, and only so.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <caf/actor_system.hpp>
#include <caf/event_based_actor.hpp>
#include <caf/scoped_actor.hpp>
#include <thread>
#include <vector>

#include "actors/connect.hpp"
#include "actors/system.hpp"

namespace troupe::actors {
namespace {

using namespace std::chrono_literals;

// Who connects ends first: CAF leaks what the other's end has it tell itself while it ends.
struct one_process {
  explicit one_process(const std::string& secret)
      : config([&] {
          network_settings n;
          n.secret = secret;
          return n;
        }()) {}
  // Gives back what it is sent.
  std::uint16_t publish_echo() {
    auto echo = system.spawn([](caf::event_based_actor* self) -> caf::behavior {
      self->set_default_handler(caf::print_and_drop);
      return {[](std::string& text) { return std::move(text); }};
    });
    actors_.push_back(echo);
    auto port = publish(system, echo, "127.0.0.1", 0);
    EXPECT_TRUE(port);
    return port ? *port : 0;
  }
  caf::actor reach(std::uint16_t port) {
    caf::scoped_actor self{system};
    caf::actor found;
    self->request(connector, 60s, caf::connect_atom_v, std::string("127.0.0.1"), port)
        .receive([&](const caf::node_id&, const caf::strong_actor_ptr& a,
                     const std::set<std::string>&) { found = caf::actor_cast<caf::actor>(a); },
                 [](const caf::error&) {});
    return found;
  }
  bool echoes(const caf::actor& there, const std::string& text) {
    caf::scoped_actor self{system};
    bool same = false;
    self->request(there, 60s, text)
        .receive([&](const std::string& back) { same = back == text; }, [](const caf::error&) {});
    return same;
  }
  ~one_process() {
    for (auto& a : actors_) caf::anon_send_exit(a, caf::exit_reason::user_shutdown);
  }

 private:
  std::vector<caf::actor> actors_;

 public:
  system_config config;
  caf::actor_system system{config};
  connector_actor connector = product_connector(system);
};

constexpr const char* secret = "the secret of this cluster";

// Connected; sends what it is told to, and hears what comes within a second, or until the other side ends it.
std::string heard_by_stranger(std::uint16_t port, const std::string& says) {
  const int s = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(s, reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
  ::send(s, says.data(), says.size(), MSG_NOSIGNAL);
  std::string all;
  char some[4096];
  pollfd one{s, POLLIN, 0};
  while (::poll(&one, 1, 1000) == 1) {
    const auto n = ::recv(s, some, sizeof some, 0);
    if (n <= 0) break;
    all.append(some, static_cast<std::size_t>(n));
  }
  ::close(s);
  return all;
}

TEST(tls_connect_test, actors_with_the_secret_reach_each_other) {
  one_process b{secret}, a{secret};
  const auto there = a.reach(b.publish_echo());
  ASSERT_TRUE(there);
  EXPECT_TRUE(a.echoes(there, "hello"));
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(a.echoes(there, std::string(1'000'000, 'a' + i)));
}

TEST(tls_connect_test, a_second_way_to_the_same_process_is_one_connection) {
  one_process b{secret}, a{secret};
  const auto first = b.publish_echo(), second = b.publish_echo();
  for (auto port : {first, second, first, second}) {
    const auto there = a.reach(port);
    ASSERT_TRUE(there);
    EXPECT_TRUE(a.echoes(there, "hello"));
  }
  const auto back = b.reach(a.publish_echo());
  ASSERT_TRUE(back);
  EXPECT_TRUE(b.echoes(back, "hello"));
}

TEST(tls_connect_test, others_are_refused_whichever_side_has_which_secret) {
  const std::vector<std::string> secrets = {secret, "the secret of another one", ""};
  for (const auto& here : secrets)
    for (const auto& there : secrets) {
      one_process b{there}, a{here};
      const auto found = a.reach(b.publish_echo());
      EXPECT_EQ(found != nullptr, here == there) << "'" << here << "' to '" << there << "'";
    }
}

TEST(tls_connect_test, a_stranger_hears_nothing_of_caf) {
  one_process open{""}, closed{secret};
  const auto identifier = [](const one_process& p) {
    return caf::get_or(p.config, "middleman.app-identifiers", std::vector<std::string>{}).at(0);
  };
  // Without a secret CAF greets everybody: what is looked for below would be seen.
  const auto greeting = heard_by_stranger(open.publish_echo(), "");
  EXPECT_NE(greeting.find(identifier(open)), std::string::npos);
  const auto port = closed.publish_echo();
  EXPECT_EQ(heard_by_stranger(port, ""), "");
  for (const auto& says : {greeting, std::string("GET / HTTP/1.1\r\n\r\n")}) {
    const auto told = heard_by_stranger(port, says);
    EXPECT_LE(told.size(), 7u);  // a TLS alert
    EXPECT_EQ(told.find("troupe"), std::string::npos);
  }
}

TEST(tls_connect_test, connections_that_fail_end_no_other) {
  one_process b{secret}, a{secret}, foreign{"the secret of another one"};
  const auto port = b.publish_echo();
  const auto there = a.reach(port);
  ASSERT_TRUE(there);
  caf::scoped_actor watcher{a.system};
  watcher->monitor(there);
  for (int i = 0; i < 20; ++i) {
    heard_by_stranger(port, std::string(64, '\xff'));
    EXPECT_FALSE(foreign.reach(port));
    EXPECT_TRUE(a.echoes(there, "still there"));
  }
  watcher->receive([](const caf::down_msg& down) { FAIL() << to_string(down.reason); },
                   caf::after(0s) >> [] {});
}

TEST(tls_connect_test, the_death_of_a_process_is_told) {
  one_process a{secret};
  auto b = std::make_unique<one_process>(secret);
  const auto there = a.reach(b->publish_echo());
  ASSERT_TRUE(there);
  caf::scoped_actor watcher{a.system};
  watcher->monitor(there);
  b.reset();
  bool told = false;
  watcher->receive([&](const caf::down_msg&) { told = true; }, caf::after(60s) >> [] {});
  EXPECT_TRUE(told);
}

}  // namespace
}  // namespace troupe::actors
