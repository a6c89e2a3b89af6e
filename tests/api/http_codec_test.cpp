#include "api/http_codec.hpp"

#include <gtest/gtest.h>

namespace troupe::api {
namespace {

using state = request_parser::state;

state feed(request_parser& p, std::string_view bytes, std::size_t step) {
  state s = state::idle;
  for (std::size_t at = 0; at < bytes.size() && s != state::failed && s != state::complete;
       at += step) {
    p.append(bytes.substr(at, step));
    s = p.advance();
  }
  return s;
}

TEST(http_codec, reads_requests_however_they_are_cut) {
  const std::string text =
      "\r\nPOST /v1/completions?x=1 HTTP/1.1\r\nHost: a\r\nContent-TYPE: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailer: "
      "x\r\n\r\n";
  for (std::size_t step = 1; step <= text.size(); ++step) {
    request_parser p({});
    ASSERT_EQ(feed(p, text, step), state::complete) << step;
    const auto r = p.take();
    EXPECT_EQ(r.method, "POST");
    EXPECT_EQ(r.target, "/v1/completions?x=1");
    EXPECT_EQ(r.body, "hello world");
    EXPECT_EQ(r.header("content-type"), "application/json");
    EXPECT_TRUE(r.keep_alive);
    EXPECT_EQ(p.advance(), state::idle);
  }
}

TEST(http_codec, requests_may_be_pipelined) {
  request_parser p({});
  p.append(
      "GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: "
      "2\r\n\r\nhiGET /c HTTP/1.0\r\n\r\n");
  const char* paths[] = {"/a", "/b", "/c"};
  for (const char* path : paths) {
    ASSERT_EQ(p.advance(), state::complete);
    EXPECT_EQ(p.take().target, path);
  }
  EXPECT_EQ(p.advance(), state::idle);
  EXPECT_EQ(p.buffered(), 0u);
}

TEST(http_codec, malformed_requests_fail_with_their_status) {
  const std::string host = "Host: x\r\n";
  const std::string post = "POST / HTTP/1.1\r\n" + host;
  std::string many = "GET / HTTP/1.1\r\n" + host;
  for (int i = 0; i < 101; ++i) many += "A" + std::to_string(i) + ": b\r\n";
  const std::vector<std::pair<int, std::string>> rows{
      {400, "NONSENSE\r\n\r\n"},
      {400, "GET / HTTP/2.0\r\n" + host + "\r\n"},
      {400, "GET / HTTP/1.2\r\n" + host + "\r\n"},
      {400, "GET  / HTTP/1.1\r\n" + host + "\r\n"},
      {400, "GET / HTTP/1.1\r\n\r\n"},
      {400, "GET / HTTP/1.1\r\n" + host + host + "\r\n"},
      {400, "GET / HTTP/1.1\r\nHost : x\r\n\r\n"},
      {400, "GET / HTTP/1.1\r\n" + host + "A\r\n\r\n"},
      {400, "GET /\x01 HTTP/1.1\r\n" + host + "\r\n"},
      {400, std::string("\x16\x03\x01\x02\x00\x01\x00", 7) + std::string(300, '\0')},
      {400, post + "Content-Length: -2\r\n\r\nxx"},
      {400, post + "Content-Length: 1e3\r\n\r\nxx"},
      {400, post + "Content-Length: 99999999999999999999999\r\n\r\nxx"},
      {400, post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nxxx"},
      {400, post + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nxx"},
      {400, post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      {400, post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"},
      {400, post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
      {400, post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      {400, post + "Transfer-Encoding: chunked\r\n\r\n-2\r\nxx\r\n0\r\n\r\n"},
      {400, post + "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\nxx"},
      {400, post + "Transfer-Encoding: chunked\r\n\r\n2\r\nxxyy\r\n"},
      {400, post + "Transfer-Encoding: chunked\r\n\r\n2;" + std::string(40000, 'e')},
      {413, post + "Content-Length: 8388609\r\n\r\n"},
      {413, post + "Transfer-Encoding: chunked\r\n\r\n800001\r\n" + std::string(8388609, 'x') +
                "\r\n0\r\n\r\n"},
      {415, post + "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx"},
      {431, "GET /" + std::string(1 << 20, 'a') + " HTTP/1.1\r\n" + host + "\r\n"},
      {431, "GET / HTTP/1.1\r\n" + host + "A: " + std::string(40000, 'a') + "\r\n\r\n"},
      {431, many + "\r\n"},
  };
  for (const auto& [status, text] : rows)
    for (std::size_t step : {std::size_t{1}, std::size_t{1000}, text.size()}) {
      if (step == 1 && text.size() > 100000) continue;
      request_parser p({});
      ASSERT_EQ(feed(p, text, step), state::failed) << text.substr(0, 100) << " by " << step;
      EXPECT_EQ(p.failure().status, status) << text.substr(0, 100) << " by " << step;
    }
}

TEST(http_codec, says_when_the_client_waits_for_100) {
  request_parser p({});
  p.append("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(p.advance(), state::body);
  EXPECT_TRUE(p.take_expects_continue());
  EXPECT_FALSE(p.take_expects_continue());
  p.append("hi");
  EXPECT_EQ(p.advance(), state::complete);
}

TEST(http_codec, responses_are_read_back) {
  http_response r;
  r.status = 503;
  r.headers = {{"Retry-After", "1"}};
  const std::string text = response_head(r, 11, true, std::nullopt) + body_chunk("hello ") +
                           body_chunk(std::string(300, 'x')) + std::string(last_chunk);
  EXPECT_EQ(text.rfind("HTTP/1.1 503 Service Unavailable\r\n", 0), 0u);
  for (std::size_t step : {std::size_t{1}, std::size_t{7}, text.size()}) {
    response_parser p;
    std::string body;
    for (std::size_t at = 0; at < text.size(); at += step)
      ASSERT_TRUE(p.push(std::string_view(text).substr(at, step), body));
    EXPECT_TRUE(p.done());
    EXPECT_EQ(p.status(), 503);
    EXPECT_EQ(p.header("retry-after"), "1");
    EXPECT_EQ(body, "hello " + std::string(300, 'x'));
  }
  response_parser cut;
  std::string body;
  cut.push(text.substr(0, text.size() - 3), body);
  EXPECT_FALSE(cut.finish()) << "a cut answer is no whole one";
}

}  // namespace
}  // namespace troupe::api
