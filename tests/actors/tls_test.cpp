// Who is let in at the port of actors, and who is not.
#include "actors/tls.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "actors/tls_door.hpp"

namespace troupe::actors {
namespace {

using namespace std::chrono_literals;
using state = tls_session::state;

int listen_here() {
  const int s = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(s, reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  EXPECT_EQ(::listen(s, 1024), 0);
  return s;
}

int connect_to(int listening) {
  sockaddr_in at{};
  socklen_t size = sizeof at;
  EXPECT_EQ(::getsockname(listening, reinterpret_cast<sockaddr*>(&at), &size), 0);
  const int s = ::socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(::connect(s, reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
  return s;
}

void wait_for(int fd, short events = POLLIN) {
  pollfd one{fd, events, 0};
  ::poll(&one, 1, 60'000);
}

// A connection of somebody who does not speak TLS.
class stranger {
 public:
  explicit stranger(int listening) : socket_(connect_to(listening)) {}
  stranger(const stranger&) = delete;
  stranger& operator=(const stranger&) = delete;
  ~stranger() { ::close(socket_); }
  void say(const std::string& bytes) const {
    EXPECT_EQ(::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // All that it is told until the connection is ended; nothing: it is not.
  std::optional<std::string> told() const {
    std::string all;
    char some[4096];
    for (;;) {
      pollfd one{socket_, POLLIN, 0};
      if (::poll(&one, 1, 60'000) == 0) return std::nullopt;
      const auto n = ::recv(socket_, some, sizeof some, 0);
      if (n <= 0) return all;  // the end, or a reset: bytes of ours were not read
      all.append(some, static_cast<std::size_t>(n));
    }
  }

 private:
  const int socket_;
};

struct tls_test : ::testing::Test {
  void open(tls_door::limits bounds = {256, 60'000ms}) {
    for (auto why : all_tls_refusals) before[why] = connections_refused(why);
    door.emplace(key, listen_here(), bounds);
  }
  std::uint64_t refused(tls_refusal why) { return connections_refused(why) - before[why]; }
  static bool eventually(const auto& condition) {
    for (const auto until = std::chrono::steady_clock::now() + 60s;
         std::chrono::steady_clock::now() < until; std::this_thread::sleep_for(5ms))
      if (condition()) return true;
    return false;
  }

  std::unique_ptr<tls_session> knock(const tls_key& with) const {
    const int socket = connect_to(door->listening());
    EXPECT_EQ(::fcntl(socket, F_SETFL, O_NONBLOCK), 0);
    return std::make_unique<tls_session>(with, tls_session::side::connecting, socket);
  }
  static state shake(tls_session& session) {
    while (session.handshake() == state::waiting)
      wait_for(session.socket(), session.wants_write() ? POLLOUT : POLLIN);
    return session.handshake();
  }
  std::unique_ptr<tls_session> come_in() {
    wait_for(door->ready());
    return door->take();
  }

  std::shared_ptr<const tls_key> key = std::make_shared<tls_key>("the secret of this cluster");
  tls_key other{"the secret of another one"};
  std::map<tls_refusal, std::uint64_t> before;
  std::optional<tls_door> door;
};

// What one end sends and has heard.
struct talk {
  explicit talk(std::size_t bytes, unsigned seed) : mine(bytes, '\0') {
    for (auto& c : mine) c = static_cast<char>((seed = seed * 1664525u + 1013904223u) >> 24);
  }
  // Whether both directions are through. `chunk`: as much as is read at a time.
  bool go_on(tls_session& with, std::size_t chunk) {
    if (sent < mine.size())
      sent += with.write(std::as_bytes(std::span(mine).subspan(sent))).value();
    std::string some(chunk, '\0');
    while (const auto n = with.read(std::as_writable_bytes(std::span(some))).value())
      heard.append(some, 0, n);
    return sent == mine.size() && heard.size() == mine.size();
  }
  std::string mine, heard;
  std::size_t sent = 0;
};

TEST_F(tls_test, ten_megabytes_pass_both_ways_with_the_secret) {
  open();
  auto near = knock(*key);
  ASSERT_EQ(shake(*near), state::established);
  auto far = come_in();
  ASSERT_TRUE(far);
  constexpr std::size_t bytes = 10'000'000;
  talk ours(bytes, 1), theirs(bytes, 2);
  bool over = false;
  const auto until = std::chrono::steady_clock::now() + 60s;
  while (!over && std::chrono::steady_clock::now() < until) {
    const bool a = ours.go_on(*near, 48), b = theirs.go_on(*far, 65'536);
    over = a && b;
  }
  EXPECT_TRUE(ours.heard == theirs.mine);
  EXPECT_TRUE(theirs.heard == ours.mine);
}

TEST_F(tls_test, who_does_not_read_is_not_written_to_without_bound) {
  open();
  auto near = knock(*key);
  ASSERT_EQ(shake(*near), state::established);
  auto far = come_in();
  const std::string much(1 << 20, 'x');
  std::size_t sent = 0, now = 0;
  do {
    now = near->write(std::as_bytes(std::span(much))).value();
    sent += now;
  } while (now > 0 && sent < (std::size_t{1} << 30));
  EXPECT_LT(sent, std::size_t{1} << 30);
}

TEST_F(tls_test, the_end_of_one_side_is_told_to_the_other) {
  open();
  auto near = knock(*key);
  ASSERT_EQ(shake(*near), state::established);
  auto far = come_in();
  std::byte some[16];
  EXPECT_EQ(far->read(some), 0u);
  near.reset();
  wait_for(far->socket());
  EXPECT_EQ(far->read(some), std::nullopt);
  EXPECT_EQ(ERR_peek_error(),
            0u);  // what the queue holds, the next connection's result would seem to be
}

TEST_F(tls_test, another_secret_is_refused_on_both_sides) {
  open();
  auto near = knock(other);
  EXPECT_EQ(shake(*near), state::refused);
  EXPECT_EQ(ERR_peek_error(), 0u);
  EXPECT_TRUE(eventually([&] { return refused(tls_refusal::wrong_key) == 1; }));
  EXPECT_FALSE(door->take());
}

TEST_F(tls_test, bytes_that_are_no_handshake_are_refused_at_once) {
  open();
  const std::vector<std::string> noise = {"GET / HTTP/1.1\r\n\r\n", std::string(4096, '\xff'),
                                          std::string(64, '\0'),
                                          "\x16\x03\x01\x02" + std::string(1000, 'x')};
  for (const auto& bytes : noise) {
    stranger s(door->listening());
    s.say(bytes);
    const auto told = s.told();
    ASSERT_TRUE(told.has_value());
    EXPECT_LE(told->size(), 7u);  // a TLS alert at most
  }
  EXPECT_TRUE(eventually([&] { return refused(tls_refusal::malformed) == noise.size(); }));
  EXPECT_FALSE(door->take());
}

TEST_F(tls_test, who_keeps_silent_is_told_nothing_and_dropped) {
  open({256, 200ms});
  stranger silent(door->listening()), slow(door->listening());
  slow.say("\x16\x03\x01");
  EXPECT_EQ(silent.told(), "");
  EXPECT_EQ(slow.told(), "");
  EXPECT_TRUE(eventually([&] { return refused(tls_refusal::silent) == 2; }));
}

TEST_F(tls_test, who_hangs_up_without_a_word_is_not_counted) {
  open();
  { stranger looks(door->listening()); }
  auto near = knock(*key);
  EXPECT_EQ(shake(*near), state::established);
  for (auto why : all_tls_refusals) EXPECT_EQ(refused(why), 0u) << to_string(why);
}

TEST_F(tls_test, many_that_keep_silent_do_not_keep_out_who_has_the_secret) {
  open({16, 60'000ms});
  std::vector<std::unique_ptr<stranger>> all;
  for (int i = 0; i < 100; ++i) all.push_back(std::make_unique<stranger>(door->listening()));
  auto near = knock(*key);
  EXPECT_EQ(shake(*near), state::established);
  EXPECT_TRUE(come_in());
  EXPECT_GE(refused(tls_refusal::overload), 100u - 16u);
}

TEST_F(tls_test, two_hundred_come_in_at_once) {
  open();
  std::vector<std::unique_ptr<tls_session>> all;
  for (int i = 0; i < 200; ++i) all.push_back(knock(*key));
  for (auto& s : all) s->handshake();
  for (auto& s : all) EXPECT_EQ(shake(*s), state::established);
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(come_in());
  EXPECT_FALSE(door->take());
}

TEST_F(tls_test, a_door_ends_with_handshakes_under_way_and_guests_not_taken) {
  open();
  stranger waits(door->listening());
  auto near = knock(*key);
  ASSERT_EQ(shake(*near), state::established);
  wait_for(door->ready());
  door.reset();
  std::byte some[16];
  wait_for(near->socket());
  EXPECT_EQ(near->read(some), std::nullopt);
  EXPECT_EQ(waits.told(), "");
}

// -- who is connected to --------------------------------------------------------------------------------------------------

TEST_F(tls_test, a_server_that_speaks_no_tls_is_refused) {
  const int listening = listen_here();
  const int near = connect_to(listening);
  wait_for(listening);
  const int far = ::accept(listening, nullptr, nullptr);
  EXPECT_EQ(::send(far, "an open cluster's handshake", 27, 0), 27);
  ::fcntl(near, F_SETFL, O_NONBLOCK);
  tls_session session(*key, tls_session::side::connecting, near);
  EXPECT_EQ(shake(session), state::refused);
  ::close(far);
  ::close(listening);
}

// It has a certificate, as every web server has one, but not the secret.
TEST_F(tls_test, a_server_with_a_certificate_is_refused) {
  EVP_PKEY* own = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, own);
  ASSERT_GT(X509_sign(certificate, own, EVP_sha256()), 0);
  SSL_CTX* context = SSL_CTX_new(TLS_server_method());
  ASSERT_EQ(SSL_CTX_use_certificate(context, certificate), 1);
  ASSERT_EQ(SSL_CTX_use_PrivateKey(context, own), 1);
  const int listening = listen_here();
  const int near = connect_to(listening);
  wait_for(listening);
  const int far = ::accept(listening, nullptr, nullptr);
  std::thread impostor([&] {
    SSL* ssl = SSL_new(context);
    SSL_set_fd(ssl, far);
    EXPECT_NE(SSL_accept(ssl), 1);
    ERR_clear_error();
    SSL_free(ssl);
    ::close(far);
  });
  ::fcntl(near, F_SETFL, O_NONBLOCK);
  {
    tls_session session(*key, tls_session::side::connecting, near);
    EXPECT_EQ(shake(session), state::refused);
  }
  impostor.join();
  ::close(listening);
  SSL_CTX_free(context);
  X509_free(certificate);
  EVP_PKEY_free(own);
}

}  // namespace
}  // namespace troupe::actors
