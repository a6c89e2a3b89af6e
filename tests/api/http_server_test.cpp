// The server over real sockets: malformed bytes, slow and leaving clients, limits.
#include "api/http_server.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "asks.hpp"
#include "socket_client.hpp"

namespace troupe::api {
namespace {

using namespace testing;
using std::chrono::milliseconds;

// What the limits of time are not the subject of holds on a machine that pauses for seconds.
http_server_options patient() {
  http_server_options o;
  o.port = 0;
  o.header_timeout = o.body_timeout = o.write_timeout = std::chrono::seconds(30);
  o.idle_timeout = milliseconds(1500);
  o.linger = std::chrono::seconds(10);
  return o;
}
http_server_options hasty() {
  auto o = patient();
  o.header_timeout = milliseconds(400);
  o.body_timeout = milliseconds(600);
  o.write_timeout = milliseconds(1000);
  return o;
}

struct served : door {
  explicit served(
      fake_service::chooser choose = [](const auto&) { return script{}; },
      http_server_options options = patient(), application_options app_options = {},
      std::uint32_t context = 1u << 20)
      : door(std::move(choose), std::move(app_options), toy_model(context)) {
    auto started = http_server::start(options, app);
    if (!started) throw std::runtime_error(started.error().detail);
    server = std::move(*started);
  }
  ~served() { server->stop(); }
  socket_client connect() { return socket_client(server->port()); }
  bool wait(const std::function<bool()>& until, int ms = 30000) {
    const auto deadline = std::chrono::steady_clock::now() + milliseconds(ms);
    while (!until() && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(milliseconds(2));
    return until();
  }
  // A new connection is served.
  void expect_alive() {
    auto c = connect();
    c.send("GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_NE(c.read_to_end().find("200 OK"), std::string::npos);
  }
  std::unique_ptr<http_server> server;
};

std::string post(const std::string& path, const std::string& body, const std::string& more = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + more +
         "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}
const std::string chat_body = R"({"messages":[{"role":"user","content":"Hi"}]})";
const std::string stream_body = R"({"messages":[{"role":"user","content":"Hi"}],"stream":true})";

script hanging(std::string_view text = "Hello") {
  script s;
  s.tokens = tokens_of(text);
  s.hang = true;
  return s;
}

TEST(http_server, serves_a_connection_again_and_again) {
  served s;
  auto c = s.connect();
  for (int i = 0; i < 20; ++i) {
    c.send(post("/v1/chat/completions", chat_body));
    const auto text = c.read_until("\"usage\"");
    ASSERT_NE(text.find("HTTP/1.1 200 OK"), std::string::npos) << i;
    ASSERT_NE(text.find("Hi there"), std::string::npos);
  }
  c.send(post("/v1/chat/completions", stream_body, "Connection: close\r\n"));
  const auto text = c.read_to_end();
  EXPECT_NE(text.find("Transfer-Encoding: chunked"), std::string::npos);
  EXPECT_NE(text.find("data: [DONE]\n\n\r\n0\r\n\r\n"), std::string::npos);
  EXPECT_TRUE(c.closed_by_peer());
}

TEST(http_server, answers_pipelined_requests_in_order) {
  served s;
  auto c = s.connect();
  std::string all;
  for (int i = 0; i < 200; ++i)
    all += "GET /v1/models/none" + std::to_string(i) + " HTTP/1.1\r\nHost: x\r\n\r\n";
  all += post("/v1/chat/completions", chat_body) +
         "GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  c.send(all);
  const auto text = c.read_to_end();
  std::size_t at = 0;
  for (int i = 0; i < 200; ++i) {
    at = text.find("'none" + std::to_string(i) + "'", at);
    ASSERT_NE(at, std::string::npos) << i;
  }
  at = text.find("Hi there", at);
  ASSERT_NE(at, std::string::npos);
  EXPECT_NE(text.find("alive", at), std::string::npos);
}

TEST(http_server, old_and_half_closed_clients_get_their_answer) {
  served s;
  auto c = s.connect();
  c.send(
      "POST /v1/completions HTTP/1.0\r\nContent-Length: "
      "28\r\n\r\n{\"prompt\":\"x\",\"stream\":true}");
  const auto text = c.read_to_end();
  EXPECT_EQ(text.find("chunked"), std::string::npos);
  EXPECT_NE(text.find("Connection: close"), std::string::npos);
  EXPECT_EQ(text.substr(text.size() - 14), "data: [DONE]\n\n");
  auto d = s.connect();
  d.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  d.finish_sending();
  EXPECT_NE(d.read_to_end().find("troupe_fake_total 1"), std::string::npos);
}

TEST(http_server, head_has_no_body) {
  served s;
  auto c = s.connect();
  c.send("HEAD /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const auto text = c.read_to_end();
  EXPECT_NE(text.find("Content-Length: "), std::string::npos);
  EXPECT_EQ(text.substr(text.size() - 4), "\r\n\r\n");
}

TEST(http_server, malformed_bytes_get_a_4xx_and_the_end) {
  served s;
  for (const std::string& bytes :
       {std::string("NONSENSE\r\n\r\n"), std::string(200, '\0'),
        std::string("\x16\x03\x01") + std::string(100, 'x') + "\r\n\r\n",
        post("/v1/completions", "{}", "Transfer-Encoding: chunked\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
        "GET /" + std::string(100000, 'a') + " HTTP/1.1\r\n\r\n"}) {
    auto c = s.connect();
    c.send(bytes);
    const auto text = c.read_to_end();
    EXPECT_EQ(text.rfind("HTTP/1.1 4", 0), 0u) << bytes.substr(0, 40);
    EXPECT_NE(text.find("X-Request-Id: "), std::string::npos);
    EXPECT_NE(text.find("{\"error\":{"), std::string::npos);
    EXPECT_TRUE(c.closed_by_peer());
  }
  s.expect_alive();
}

TEST(http_server, large_bodies_are_413_and_their_sender_can_read_it) {
  served s;
  auto c = s.connect();
  c.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n");
  const std::string piece(1 << 20, 'a');
  for (int i = 0; i < 20 && c.send(piece); ++i) {
  }
  EXPECT_EQ(c.read_to_end().rfind("HTTP/1.1 413 ", 0), 0u);
  // Without a declared length: at the limit.
  auto d = s.connect();
  d.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 12 && d.send("100000\r\n" + piece + "\r\n"); ++i) {
  }
  EXPECT_EQ(d.read_to_end().rfind("HTTP/1.1 413 ", 0), 0u);
  s.expect_alive();
}

TEST(http_server, waits_for_a_body_with_100_continue) {
  served s;
  auto c = s.connect();
  c.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: "
      "close\r\nContent-Length: 14\r\n\r\n");
  EXPECT_EQ(c.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  c.send("{\"prompt\":\"x\"}");
  EXPECT_EQ(c.read_to_end().rfind("HTTP/1.1 200 OK", 0), 0u);
}

TEST(http_server, slow_senders_get_408_or_the_end) {
  served s([](const auto&) { return script{}; }, hasty());
  auto head = s.connect(), body = s.connect(), silent = s.connect();
  head.send("GET /live HT");
  body.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
  // Dribbling does not buy time.
  for (int i = 0; i < 30; ++i) {
    head.send("T");
    body.send(" ");
    std::this_thread::sleep_for(milliseconds(30));
  }
  EXPECT_EQ(head.read_to_end().rfind("HTTP/1.1 408 ", 0), 0u);
  EXPECT_EQ(body.read_to_end().rfind("HTTP/1.1 408 ", 0), 0u);
  EXPECT_EQ(silent.read_to_end(), "");
  EXPECT_TRUE(silent.closed_by_peer());
  head.close();
  body.close();
  s.expect_alive();
  EXPECT_TRUE(s.wait([&] { return s.server->connections() == 0; }));
}

TEST(http_server, idle_connections_end) {
  served s;
  auto c = s.connect();
  c.send("GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_NE(c.read_until("}").find("alive"), std::string::npos);
  EXPECT_EQ(c.read_to_end(), "");
  EXPECT_TRUE(c.closed_by_peer());
}

TEST(http_server, a_leaving_client_cancels_its_generation) {
  for (bool stream : {false, true})
    for (bool rst : {false, true})
      for (bool queued : {false, true}) {
        script play = hanging();
        if (queued) play.before_accept = std::chrono::hours(1);
        served s(always(play));
        auto c = s.connect();
        c.send(post("/v1/chat/completions", stream ? stream_body : chat_body));
        ASSERT_TRUE(s.wait([&] { return s.service.submitted().size() == 1; }));
        if (stream && !queued) c.read_until("lo");
        rst ? c.reset() : c.close();
        EXPECT_TRUE(s.wait([&] { return s.service.canceled_running() == 1; }))
            << stream << rst << queued;
        EXPECT_TRUE(
            s.wait([&] { return s.app->in_flight() == 0 && s.server->connections() == 0; }));
      }
}

TEST(http_server, silent_streams_are_pinged) {
  application_options options;
  options.ping = milliseconds(50);
  served s(always(hanging()), patient(), options);
  auto c = s.connect();
  c.send(post("/v1/chat/completions", stream_body));
  EXPECT_NE(c.read_until(": ping\n\n").find(": ping\n\n"), std::string::npos);
}

TEST(http_server, slow_readers_are_dropped_and_others_served) {
  http_server_options options = patient();
  options.max_output = 64 << 10;
  options.write_timeout = std::chrono::seconds(60);
  script flood;
  flood.tokens.assign(200000, 'x');
  flood.per_event = 100;
  flood.between = milliseconds(1);
  served s(always(flood), options);
  socket_client slow(s.server->port(), 2048);
  slow.send(
      post("/v1/completions", R"({"prompt":"x","stream":true,"max_tokens":200000,"logprobs":5})"));
  ASSERT_TRUE(s.wait([&] { return s.service.submitted().size() == 1; }));
  s.expect_alive();
  EXPECT_TRUE(s.wait([&] { return s.service.canceled_running() == 1; }));
  EXPECT_TRUE(s.wait([&] { return s.server->connections() == 0; }));
}

TEST(http_server, a_reader_that_stops_ends_by_the_write_timeout) {
  script flood;
  flood.tokens.assign(40000, 'x');
  flood.per_event = 1000;
  served s(always(flood), hasty());
  socket_client slow(s.server->port(), 2048);
  slow.send(post("/v1/completions", R"({"prompt":"x","max_tokens":40000,"logprobs":5})"));
  EXPECT_TRUE(
      s.wait([&] { return s.service.submitted().size() == 1 && s.service.running() == 0; }));
  EXPECT_TRUE(s.wait([&] { return s.server->connections() == 0; }));
}

TEST(http_server, five_hundred_connections) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 4096);
  setrlimit(RLIMIT_NOFILE, &limit);
  auto options = patient();
  options.header_timeout = options.body_timeout = std::chrono::seconds(30);
  served s([](const auto&) { return script{}; }, options);
  std::vector<socket_client> clients;
  for (int i = 0; i < 500; ++i) clients.push_back(s.connect());
  for (auto& c : clients) ASSERT_TRUE(c.send(post("/v1/chat/completions", chat_body)));
  int good = 0;
  for (auto& c : clients)
    good += c.read_until("Hi there", 30000).find("Hi there") != std::string::npos;
  EXPECT_EQ(good, 500);
  clients.clear();
  EXPECT_TRUE(s.wait([&] { return s.server->connections() == 0; }));
}

TEST(http_server, one_connection_too_many_is_503) {
  auto options = patient();
  options.max_connections = 3;
  options.header_timeout = std::chrono::seconds(5);
  served s([](const auto&) { return script{}; }, options);
  std::vector<socket_client> held;
  for (int i = 0; i < 3; ++i) held.push_back(s.connect());
  ASSERT_TRUE(s.wait([&] { return s.server->connections() == 3; }));
  auto c = s.connect();
  c.send("GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto text = c.read_to_end();
  EXPECT_EQ(text.rfind("HTTP/1.1 503 ", 0), 0u);
  EXPECT_NE(text.find("Retry-After: 1"), std::string::npos);
  held.clear();
  c.close();
  ASSERT_TRUE(s.wait([&] { return s.server->connections() == 0; }));
  s.expect_alive();
}

TEST(http_server, survives_running_out_of_descriptors) {
  auto options = patient();
  options.header_timeout = std::chrono::seconds(30);
  served s([](const auto&) { return script{}; }, options);
  s.expect_alive();
  ASSERT_TRUE(s.wait([&] { return s.server->connections() == 0; }));
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  std::vector<socket_client> clients(4);
  const int next = ::dup(0);
  ::close(next);
  rlimit tight = before;
  tight.rlim_cur = static_cast<rlim_t>(next);  // nothing can be accepted
  setrlimit(RLIMIT_NOFILE, &tight);
  for (auto& c : clients) c.connect(s.server->port());
  std::this_thread::sleep_for(milliseconds(150));
  EXPECT_EQ(s.server->connections(), 0u);
  setrlimit(RLIMIT_NOFILE, &before);
  for (auto& c : clients) {
    c.send("GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_NE(c.read_to_end().find("200 OK"), std::string::npos);
  }
}

TEST(http_server, a_taken_port_is_named) {
  served s;
  auto options = patient();
  options.port = s.server->port();
  auto second = http_server::start(options, s.app);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ec::address_in_use);
  EXPECT_NE(second.error().detail.find("--port"), std::string::npos);
  options.host = "not-an-address";
  EXPECT_FALSE(http_server::start(options, s.app));
}

TEST(http_server, stops_with_work_under_way) {
  served s(always(hanging()));
  auto c = s.connect();
  c.send(post("/v1/chat/completions", stream_body));
  c.read_until("lo");
  const auto begin = std::chrono::steady_clock::now();
  s.server->stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  c.read_to_end();
  EXPECT_TRUE(c.closed_by_peer());
  EXPECT_TRUE(s.wait([&] { return s.service.running() == 0; }));
}

}  // namespace
}  // namespace troupe::api
