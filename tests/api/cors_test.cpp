#include "api/cors.hpp"

#include <gtest/gtest.h>

#include "fakes.hpp"

namespace troupe::api::testing {
namespace {

std::string header(const http_response& r, std::string_view name) {
  for (const auto& [n, v] : r.headers)
    if (n == name) return v;
  return {};
}

http_request from(const std::string& origin, http_request request) {
  request.headers.emplace_back("origin", origin);
  return request;
}

http_request question(const std::string& origin) {
  auto q = from(origin, make_request("OPTIONS", "/v1/chat/completions"));
  q.headers.emplace_back("access-control-request-method", "POST");
  q.headers.emplace_back("access-control-request-headers", "authorization,x-stainless-lang");
  return q;
}

application_options allowing(const std::vector<std::string>& origins) {
  application_options options;
  options.keys = *api_keys::make({"sk-user"});
  options.allowed_origins = *cors::make(origins);
  return options;
}

fake_service::chooser plain() {
  return [](const auto&) { return script{}; };
}

const std::string page = "https://chat.example", other = "https://other.example";

TEST(cors, pages_of_others_are_strangers_by_default) {
  door d;
  auto x = d.call(question(page));
  EXPECT_EQ(x->response.status, 405);
  x = d.call(from(page, make_request("GET", "/v1/models")));
  EXPECT_EQ(x->response.status, 200);
  EXPECT_EQ(header(x->response, "Access-Control-Allow-Origin"), "");
}

TEST(cors, a_named_origin_may_ask_and_read) {
  door d(plain(), allowing({page + ",http://localhost:3000"}));
  auto x = d.call(question(page));  // without the key
  EXPECT_EQ(x->response.status, 200);
  EXPECT_EQ(header(x->response, "Access-Control-Allow-Origin"), page);
  EXPECT_EQ(header(x->response, "Access-Control-Allow-Methods"), "GET, HEAD, POST");
  EXPECT_EQ(header(x->response, "Access-Control-Allow-Headers"), "authorization,x-stainless-lang");
  EXPECT_EQ(header(x->response, "Access-Control-Max-Age"), "600");
  EXPECT_EQ(header(x->response, "Access-Control-Allow-Credentials"), "");
  EXPECT_EQ(header(x->response, "Vary"), "Origin");

  auto request =
      from(page, make_request("POST", "/v1/completions", R"({"prompt": "x", "stream": true})"));
  request.headers.emplace_back("authorization", "Bearer sk-user");
  x = d.call(request);
  ASSERT_TRUE(x->run_to_end());
  EXPECT_EQ(x->response.status, 200);
  EXPECT_EQ(header(x->response, "Access-Control-Allow-Origin"), page) << "streams too";

  x = d.call(from("http://localhost:3000", make_request("GET", "/v1/models")));
  EXPECT_EQ(x->response.status, 401) << "a key is still needed";
  EXPECT_EQ(header(x->response, "Access-Control-Allow-Origin"), "http://localhost:3000")
      << "and the page can read why";
}

TEST(cors, another_origin_stays_a_stranger) {
  door d(plain(), allowing({page}));
  auto x = d.call(question(other));
  EXPECT_EQ(x->response.status, 401);
  EXPECT_EQ(header(x->response, "Access-Control-Allow-Origin"), "");
  EXPECT_EQ(header(x->response, "Vary"), "Origin");
  x = d.call(make_request("OPTIONS", "/v1/models"));
  EXPECT_EQ(x->response.status, 401) << "no preflight without an origin";
}

TEST(cors, a_star_is_every_origin) {
  door d(plain(), allowing({R"(["*"])"}));
  auto x = d.call(question(other));
  EXPECT_EQ(header(x->response, "Access-Control-Allow-Origin"), "*");
  EXPECT_EQ(header(x->response, "Vary"), "");
}

http_request command(const std::string& origin, const std::string& host,
                     const std::string& path = "/v1/cache/clear") {
  auto r = make_request("POST", path, "{}");  // and no type, as of a page's Blob without one
  r.headers.emplace_back("host", host);
  return origin.empty() ? r : from(origin, r);
}

// What looks like a form's is sent without asking before: the answer cannot be read, but it would have been done.
TEST(cors, strangers_cannot_have_things_done) {
  const std::string host = "127.0.0.1:8000";
  door d;
  for (const auto& origin : {page, std::string("null"), std::string("http://127.0.0.1:3000"),
                             std::string("http://127.0.0.1"), std::string("127.0.0.1:8000")})
    for (const char* path :
         {"/v1/cache/clear", "/v1/cluster/drain", "/v1/completions", "/nothing"}) {
      auto x = d.call(command(origin, host, path));
      EXPECT_EQ(x->response.status, 403) << origin << path;
      const auto e = json_of(*x)["error"];
      EXPECT_EQ(e["type"], "permission_error");
      EXPECT_EQ(e["code"], "origin_not_allowed");
      EXPECT_NE(e["message"].get<std::string>().find("--allowed-origins"), std::string::npos);
    }
  EXPECT_TRUE(d.service.submitted().empty());
  auto x = d.call(from(page, make_request("DELETE", "/v1/cache/clear")));
  EXPECT_EQ(x->response.status, 403);

  door allowed(plain(), [] {
    auto o = allowing({page});
    o.keys = {};
    return o;
  }());
  EXPECT_EQ(allowed.call(command(page, host))->response.status, 200);
  EXPECT_EQ(allowed.call(command(other, host))->response.status, 403);
  door open(plain(), [] {
    application_options o;
    o.allowed_origins = *cors::make({"*"});
    return o;
  }());
  EXPECT_EQ(open.call(command("null", host))->response.status, 200);
}

TEST(cors, the_servers_own_page_and_who_is_no_page_go_on) {
  door d;
  EXPECT_EQ(d.call(command("", "127.0.0.1:8000"))->response.status, 200) << "curl";
  for (const auto& [origin, host] : std::vector<std::pair<std::string, std::string>>{
           {"http://127.0.0.1:8000", "127.0.0.1:8000"},
           {"https://chat.example", "Chat.Example"},  // behind a proxy that speaks TLS
           {"http://[::1]:8000", "[::1]:8000"}})
    EXPECT_EQ(d.call(command(origin, host))->response.status, 200) << origin;
  auto proxied = command("https://chat.example", "127.0.0.1:8000");
  proxied.headers.emplace_back("sec-fetch-site", "same-origin");
  EXPECT_EQ(d.call(proxied)->response.status, 200);
  proxied.headers.back().second = "cross-site";
  EXPECT_EQ(d.call(proxied)->response.status, 403);
}

TEST(cors, a_browsers_password_does_not_help_a_stranger) {
  application_options options;
  options.keys = *api_keys::make({"sk-user"});
  door d(plain(), options);
  auto request = command(page, "127.0.0.1:8000");
  request.headers.emplace_back("authorization", "Basic eDpzay11c2Vy");  // x:sk-user
  EXPECT_EQ(d.call(request)->response.status, 403);
  request.headers[1].second = "http://127.0.0.1:8000";
  EXPECT_EQ(d.call(request)->response.status, 200);
}

TEST(cors, headers_are_never_sent_back_unchecked) {
  door d(plain(), allowing({"*"}));
  auto q = from(page, make_request("OPTIONS", "/v1/models"));
  q.headers.emplace_back("access-control-request-method", "GET");
  q.headers.emplace_back("access-control-request-headers", "x\"y<script>");
  EXPECT_EQ(header(d.call(q)->response, "Access-Control-Allow-Headers"), "");
}

TEST(cors, origins_are_checked_when_they_are_given) {
  for (const char* good : {"*", "http://127.0.0.1:8080", R"(["http://a","https://b.example:1"])",
                           "http://a,http://b", "chrome-extension://abcdef"})
    EXPECT_TRUE(cors::make({good})) << good;
  for (const char* bad : {"", "chat.example", "https://", "https://a/", "https://a,", "https://A",
                          "https://*.example", "[1]", "[\"*\"", "[]x"})
    EXPECT_FALSE(cors::make({bad})) << bad;
}

}  // namespace
}  // namespace troupe::api::testing
