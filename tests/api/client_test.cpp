// Our own clients against our own server, and what they print.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/completion_client.hpp"
#include "api/explanation.hpp"
#include "api/http_server.hpp"
#include "api/load_generator.hpp"
#include "api/status_table.hpp"
#include "fakes.hpp"
#include "socket_client.hpp"

namespace troupe::api {
namespace {

using namespace testing;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

struct served : door {
  explicit served(script s, application_options options = {})
      : door([s](const auto&) { return s; }, std::move(options), toy_model(4096)) {
    http_server_options o;
    o.port = 0;
    server = *http_server::start(o, app);
  }
  ~served() { server->stop(); }
  std::string address() const { return "http://127.0.0.1:" + std::to_string(server->port()); }
  completion_call call() const {
    completion_call c;
    c.to = *parse_url(address());
    c.body = {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}};
    return c;
  }
  std::unique_ptr<http_server> server;
};

TEST(client, streams_an_answer) {
  script s;
  s.tokens = tokens_of("caf\u00e9 \U0001F600!");
  s.between = milliseconds(2);
  served server(s);
  auto call = server.call();
  call.body["return_trace"] = true;
  std::string seen;
  auto a = stream_completion(call, [&](std::string_view text) {
    seen += text;
    return true;
  });
  ASSERT_TRUE(a) << a.error().detail;
  EXPECT_EQ(a->text, "caf\u00e9 \U0001F600!");
  EXPECT_EQ(seen, a->text);
  EXPECT_EQ(a->finish_reason, "stop");
  EXPECT_EQ(a->completion_tokens, s.tokens.size());
  EXPECT_EQ(a->trace["decode_node"], "decode-0");
  EXPECT_GT(a->ttft(), 0);
  EXPECT_GE(a->e2el(), a->ttft());
  EXPECT_GT(a->tpot(), 0.001);
}

TEST(client, can_stop_in_the_middle) {
  script s;
  s.hang = true;
  served server(s);
  auto a = stream_completion(server.call(), [](std::string_view) { return false; });
  ASSERT_TRUE(a);
  EXPECT_EQ(a->finish_reason, "stopped");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (server.service.running() > 0 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(milliseconds(2));
  EXPECT_EQ(server.service.canceled_running(), 1u);
}

TEST(client, errors_say_what_is_wrong) {
  script refusal;
  refusal.accept = false;
  refusal.failure = {ec::queue_full, ""};
  served full(refusal);
  EXPECT_THAT(stream_completion(full.call()).error().detail, HasSubstr("overloaded"));

  script dying;
  dying.fail_after = 2;
  dying.between = milliseconds(20);
  dying.failure = {ec::peer_lost, ""};
  served lost(dying);
  EXPECT_THAT(stream_completion(lost.call()).error().detail, HasSubstr("lost"));

  application_options locked;
  locked.keys = *api_keys::make({"sk"});
  served server({}, locked);
  EXPECT_THAT(stream_completion(server.call()).error().detail, HasSubstr("API key"));
  auto with_key = server.call();
  with_key.key = "sk";
  EXPECT_TRUE(stream_completion(with_key));

  completion_call nobody = server.call();
  {
    http_server_options o;
    o.port = 0;
    nobody.to.port = (*http_server::start(o, server.app))->port();
  }
  EXPECT_THAT(stream_completion(nobody).error().detail, HasSubstr("cannot reach 127.0.0.1"));

  script slow;
  slow.before_accept = std::chrono::hours(1);
  served late(slow);
  auto impatient = late.call();
  impatient.timeout = milliseconds(100);
  EXPECT_EQ(stream_completion(impatient).error().code, ec::deadline_exceeded);
}

// A server that says one thing and closes.
struct rude_server {
  explicit rude_server(std::string text) : fd(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof a;
    if (::bind(fd, reinterpret_cast<sockaddr*>(&a), size) != 0 || ::listen(fd, 1) != 0)
      throw std::runtime_error("listen");
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&a), &size);
    port = ntohs(a.sin_port);
    thread = std::thread([this, text = std::move(text)] {
      const int c = ::accept(fd, nullptr, nullptr);
      char buffer[65536];
      if (::recv(c, buffer, sizeof buffer, 0) > 0)
        ::send(c, text.data(), text.size(), MSG_NOSIGNAL);
      ::close(c);
    });
  }
  ~rude_server() {
    thread.join();
    ::close(fd);
  }
  int fd;
  std::uint16_t port = 0;
  std::thread thread;
};

TEST(client, broken_answers_are_errors) {
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
  for (const std::string& text : {std::string("SSH-2.0-x\r\n"), std::string(""),
                                  head + "Content-Length: 100\r\n\r\ndata: {}\n\n",
                                  head + "Connection: close\r\n\r\ndata: {\"choices\":[]}\n\n",
                                  head + "Connection: close\r\n\r\ndata: NaN\n\n",
                                  head + "Connection: close\r\n\r\ndata: "
                                         "{\"error\":{\"message\":\"no\"}}\n\ndata: [DONE]\n\n"}) {
    rude_server server(text);
    completion_call c;
    c.to = {"127.0.0.1", server.port, ""};
    c.body = nlohmann::json::object();
    c.timeout = milliseconds(5000);
    EXPECT_FALSE(stream_completion(c)) << text;
  }
}

TEST(load_generator, counts_what_happened) {
  script s;
  s.tokens = tokens_of("12345678");
  s.between = milliseconds(1);
  served server(s);
  bench_serve_config c;
  c.url = server.address();
  c.num_prompts = 12;
  c.max_concurrency = 4;
  c.input_len = 5;
  c.output_len = 8;
  for (const char* backend : {"openai", "openai-chat"}) {
    c.backend = backend;
    auto load = generate_load(c);
    ASSERT_TRUE(load) << load.error().detail;
    auto limits = parse_goodput({"ttft:60000", "e2el:0.001"});
    ASSERT_TRUE(limits);
    const auto sum = summarize(*load, *limits);
    EXPECT_EQ(sum["completed"], 12);
    EXPECT_EQ(sum["failed"], 0);
    EXPECT_EQ(sum["total_output_tokens"], 12 * 8);
    EXPECT_EQ(sum["request_goodput"], 0);
    EXPECT_GT(sum["tpot_ms"]["median"], 0.9);
    EXPECT_THAT(report(sum), HasSubstr("P99 E2EL (ms):"));
  }
  c.url = "http://127.0.0.1:1";
  EXPECT_FALSE(generate_load(c));
}

TEST(load_generator, limits_and_percentiles) {
  EXPECT_EQ(parse_goodput({"tpot:5"})->tpot, 5);
  for (const char* bad : {"ttft", "ttft:", "ttft:x", "ttft:-1", "speed:3", "ttft:5s", "ttft:nan"})
    EXPECT_FALSE(parse_goodput({bad})) << bad;
  EXPECT_EQ(percentile({}, 0.5), 0);
  EXPECT_EQ(percentile({3}, 0.99), 3);
  EXPECT_DOUBLE_EQ(percentile({4, 1, 2, 3}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(percentile({1, 2, 3, 4, 5}, 1.0), 5);
}

TEST(status_table, shows_nodes_and_the_state) {
  actors::cluster_status s;
  actors::node_status n;
  n.name = "decode-0", n.role = "decode", n.state = "lost", n.host = "10.0.0.2", n.port = 9,
  n.blocks_total = 64;
  n.blocks_quarantined = 2, n.device = "host";
  s.nodes.push_back(n);
  s.loading = "decode-0: loading weights 43 %";
  const auto text = status_table(nlohmann::json::parse(cluster_json(s)));
  for (const char* part : {"decode-0", "lost", "10.0.0.2:9", "0+2 quarantined",
                           "not ready (decode-0: loading weights 43 %)"})
    EXPECT_THAT(text, HasSubstr(part));
  EXPECT_THAT(status_table(nlohmann::json::object()), HasSubstr("not ready"));
}

TEST(explanation, tells_who_did_what) {
  streamed_answer a;
  a.prompt_tokens = 100;
  a.completion_tokens = 20;
  a.trace = {{"prefill_node", "prefill-0"},
             {"decode_node", "decode-1"},
             {"route_reason", "remote prefill: long"},
             {"transfer_path", "shm"},
             {"blocks_pulled", 7},
             {"transfer_bytes", 2'000'000},
             {"transfer_us", 1000},
             {"cached_tokens", 0}};
  const auto text = explain(a);
  for (const char* part : {"prefill-0", "decode-1", "remote prefill: long", "7 KV blocks",
                           "over shm", "2.00 GB/s", "20 tokens"})
    EXPECT_THAT(text, HasSubstr(part));
  EXPECT_THAT(explain(streamed_answer{}), HasSubstr("first token"));
}

TEST(api_keys, are_read_from_files_and_checked) {
  EXPECT_FALSE(api_keys::make({""}));
  EXPECT_FALSE(api_keys::make({"a b"}));
  EXPECT_FALSE(api_keys::read_file("/no/such/file"));
  EXPECT_FALSE(api_keys::make({})->required());
  EXPECT_FALSE(api_keys::make({"k"})->accepts("Bearer "));
  EXPECT_FALSE(api_keys::make({"k"})->accepts(""));
}

}  // namespace
}  // namespace troupe::api
