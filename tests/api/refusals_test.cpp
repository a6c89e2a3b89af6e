// Requests that are answered by an error: while the server starts, and how all of them are counted.
#include <gtest/gtest.h>

#include "api/front_door.hpp"
#include "fakes.hpp"

namespace troupe::api::testing {
namespace {

using nlohmann::json;

bool counted(const frontend_metrics& m, const std::string& reason, int times) {
  const auto line =
      "troupe_requests_rejected_total{reason=\"" + reason + "\"} " + std::to_string(times) + "\n";
  return m.text().find(line) != std::string::npos;
}

TEST(refusals, every_one_is_counted_by_its_cause) {
  const std::vector<std::pair<error, std::string>> of_cluster{
      {{ec::queue_full, ""}, "queue_full"},
      {{ec::out_of_memory, ""}, "out_of_memory"},
      {{ec::overloaded, ""}, "overloaded"},
      {{ec::no_worker, ""}, "no_worker"},
      {{ec::draining, ""}, "server_is_draining"},
      {{ec::poison, ""}, "request_ends_workers"},
      {{ec::context_exceeded, ""}, "context_length_exceeded"},
      {{ec::deadline_exceeded, ""}, "deadline_exceeded"},
      {{ec::peer_lost, ""}, "worker_lost"},
      {{ec::fence_mismatch, ""}, "internal_error"}};
  for (const auto& [failure, reason] : of_cluster) {
    script s;
    s.accept = false;
    s.failure = failure;
    door d([&s](const auto&) { return s; });
    d.post("/v1/completions", {{"prompt", "x"}});
    EXPECT_TRUE(counted(*d.metrics, reason, 1)) << reason;
  }
  application_options options;
  options.keys = *api_keys::make({"sk-user"});
  door d([](const auto&) { return script{}; }, std::move(options));
  d.ask("GET", "/v1/models");
  EXPECT_TRUE(counted(*d.metrics, "invalid_api_key", 1));
}

TEST(refusals, of_the_door_itself_are_counted_too) {
  door d;
  d.post("/v1/completions", {{"prompt", "x"}, {"model", "none"}});
  d.post("/v1/completions", {{"prompt", "x"}, {"temperature", -1}});
  d.post("/v1/completions", {{"prompt", "x"}, {"max_tokens", "many"}});
  d.post("/v1/completions", {{"prompt", "x"}, {"mirostat", 2}});
  d.post("/v1/completions", {{"prompt", std::string(600, 'x')}});
  d.ask("GET", "/nothing");
  d.app->refuse(http_error(413, "Too large."));
  d.app->refuse(http_error(503, "Too many connections."));
  d.app->begin_drain();
  d.post("/v1/completions", {{"prompt", "x"}});
  for (const auto& [reason, times] :
       {std::pair("model_not_found", 1), std::pair("invalid_request", 2),
        std::pair("unsupported_value", 1), std::pair("context_length_exceeded", 1),
        std::pair("unknown_url", 1), std::pair("request_too_large", 1),
        std::pair("too_many_at_once", 1), std::pair("server_is_draining", 1),
        std::pair("internal_error", 0)})
    EXPECT_TRUE(counted(*d.metrics, reason, times)) << reason << "\n" << d.metrics->text();
}

TEST(refusals, while_the_server_starts) {
  door inside;
  const std::string page = "https://chat.example";
  front_door front(inside.metrics, *cors::make({page}));
  const auto ask = [&](const char* method, const char* target, const std::string& body = {}) {
    auto x = std::make_shared<fake_exchange>();
    inside.calls.push_back(x);
    front.handle(make_request(method, target, body), x);
    return x;
  };
  EXPECT_EQ(ask("GET", "/live")->response.status, 200);
  for (const char* path : {"/health", "/ready?x=1"}) {
    const auto x = ask("GET", path);
    EXPECT_EQ(x->response.status, 503);
    EXPECT_EQ(json_of(*x)["status"], "starting");
  }
  const std::string body = R"({"prompt": "x"})";
  const auto early = ask("POST", "/v1/completions", body);
  EXPECT_EQ(early->response.status, 503);
  EXPECT_EQ(json_of(*early)["error"]["code"], "server_is_starting");
  EXPECT_EQ(front.refuse(http_error(413, "Too large.")).status, 413);
  const auto has = [](const http_response& r, const char* name, std::string_view value) {
    return std::any_of(r.headers.begin(), r.headers.end(), [&](const auto& h) {
      return h.first == name && h.second.starts_with(value);
    });
  };
  EXPECT_TRUE(has(early->response, "X-Request-Id", "req-"));
  EXPECT_TRUE(has(front.refuse(http_error(431, "Too large.")), "X-Request-Id", "req-"));
  for (const char* method : {"GET", "OPTIONS"}) {
    auto request = make_request(method, "/v1/models");
    request.headers = {
        {"origin", page}, {"x-request-id", "mine"}, {"access-control-request-method", "GET"}};
    auto x = std::make_shared<fake_exchange>();
    inside.calls.push_back(x);
    front.handle(std::move(request), x);
    EXPECT_EQ(x->response.status, method[0] == 'G' ? 503 : 200);
    EXPECT_TRUE(has(x->response, "Access-Control-Allow-Origin", page)) << method;
    EXPECT_TRUE(has(x->response, "X-Request-Id", "mine")) << method;
  }
  EXPECT_TRUE(counted(*inside.metrics, "server_is_starting", 2));
  EXPECT_TRUE(counted(*inside.metrics, "request_too_large", 1));

  front.open(inside.app);
  const auto later = ask("POST", "/v1/completions", body);
  ASSERT_TRUE(later->run_to_end());
  EXPECT_EQ(later->response.status, 200);
  EXPECT_EQ(front.refuse(http_error(413, "Too large.")).status, 413);
}

}  // namespace
}  // namespace troupe::api::testing
