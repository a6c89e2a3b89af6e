// The doors that tell and administer, without sockets: models, health, keys, paths, metrics.
#include "api/application.hpp"

#include <gtest/gtest.h>

#include "asks.hpp"

namespace troupe::api {
namespace {

using namespace testing;
using nlohmann::json;
using std::chrono::milliseconds;

TEST(application_info, unknown_models_are_404) {
  door d;
  for (const char* path : {"/v1/chat/completions", "/v1/completions", "/tokenize"}) {
    auto x = d.post(path, plus(chat, {{"model", "gpt-4"}, {"prompt", "x"}}));
    EXPECT_EQ(x->response.status, 404) << path;
    EXPECT_EQ(json_of(*x)["error"]["code"], "model_not_found");
    EXPECT_EQ(json_of(*x)["error"]["param"], "model");
  }
  EXPECT_EQ(d.post("/v1/chat/completions", plus(chat, {{"model", "default"}}))->response.status,
            200);
  EXPECT_EQ(json_of(*d.post("/v1/chat/completions", plus(chat, {{"model", "org/toy"}})))["model"],
            "org/toy");
}

TEST(application_info, models_are_listed) {
  door d;
  const auto list = json_of(*d.ask("GET", "/v1/models"));
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "toy");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(list["data"][1]["max_model_len"], 512);
  EXPECT_EQ(json_of(*d.ask("GET", "/v1/models/org%2Ftoy"))["id"], "org/toy");
  EXPECT_EQ(json_of(*d.ask("GET", "/v1/models/org/toy?x=1"))["id"], "org/toy");
  EXPECT_EQ(d.ask("GET", "/v1/models/none")->response.status, 404);
}

TEST(application_info, tokenizes_both_ways) {
  door d;
  auto t = json_of(*d.post("/tokenize", {{"prompt", "h\u00e9"}, {"return_token_strs", true}}));
  EXPECT_EQ(t["tokens"], json::array({104, 195, 169}));
  EXPECT_EQ(t["count"], 3);
  EXPECT_EQ(t["max_model_len"], 512);
  EXPECT_EQ(t["token_strs"].size(), 3u);
  EXPECT_EQ(json_of(*d.post("/detokenize", {{"tokens", t["tokens"]}}))["prompt"], "h\u00e9");
  EXPECT_EQ(json_of(*d.post("/detokenize", {{"tokens", t["tokens"]}}))["content"], "h\u00e9");
  EXPECT_EQ(json_of(*d.post("/tokenize", {{"content", "h\u00e9"}}))["tokens"], t["tokens"]);
  EXPECT_EQ(d.post("/tokenize", {{"content", 1}})->response.status, 400);
  EXPECT_EQ(json_of(*d.post("/tokenize", chat))["count"], 8);
  EXPECT_EQ(d.post("/tokenize", {{"prompt", ""}})->response.status, 200);
  for (const json& bad :
       {json{{"prompt", 1}}, json::object(), json{{"prompt", "x"}, {"add_special_tokens", 3}}})
    EXPECT_EQ(d.post("/tokenize", bad)->response.status, 400);
  for (const json& bad :
       {json{{"tokens", {-1}}}, json{{"tokens", {300}}}, json{{"tokens", "x"}}, json::object()})
    EXPECT_EQ(d.post("/detokenize", bad)->response.status, 400);
}

TEST(application_info, health_follows_the_cluster) {
  door d;
  EXPECT_EQ(d.ask("GET", "/health")->response.status, 200);
  actors::cluster_status loading;
  loading.loading = "decode-0: loading weights 43 %";
  d.service.set_status(loading);
  auto x = d.ask("GET", "/ready");
  EXPECT_EQ(x->response.status, 503);
  EXPECT_EQ(json_of(*x)["status"], "starting");
  EXPECT_EQ(json_of(*x)["detail"], loading.loading);
  EXPECT_EQ(d.ask("GET", "/live")->response.status, 200);
}

TEST(application_info, draining_refuses_new_work_and_finishes_the_old) {
  script s = says("done");
  s.between = milliseconds(5);
  door d(always(s));
  auto old =
      d.call(make_request("POST", "/v1/chat/completions", plus(chat, {{"stream", true}}).dump()));
  d.app->begin_drain();
  auto x = d.post("/v1/chat/completions", chat);
  EXPECT_EQ(x->response.status, 503);
  EXPECT_EQ(json_of(*x)["error"]["code"], "server_is_draining");
  EXPECT_FALSE(header(x->response, "Retry-After").empty());
  EXPECT_EQ(d.ask("GET", "/health")->response.status, 503);
  EXPECT_EQ(d.ask("GET", "/live")->response.status, 200);
  EXPECT_TRUE(old->run_to_end());
  EXPECT_EQ(chunks_of(old->body).back(), "[DONE]");
  EXPECT_EQ(d.app->in_flight(), 0u);
}

TEST(application_info, metrics_exist_from_the_start_and_move) {
  door d;
  const auto before = d.ask("GET", "/metrics")->response.body;
  for (const char* line :
       {"troupe_fake_total 1",
        "troupe_requests_total{code=\"503\",endpoint=\"chat_completions\"} 0",
        "troupe_time_to_first_token_seconds_count 0", "troupe_requests_in_flight 0",
        "troupe_requests_rejected_total{reason=\"queue_full\"} 0",
        "troupe_answer_forms_total{form=\"tool_calls\",outcome=\"refused\"} 0",
        "troupe_inter_token_latency_seconds_bucket{le=\"0.0005\"} 0"})
    EXPECT_NE(before.find(line), std::string::npos) << line;
  d.post("/v1/chat/completions", chat);
  d.post("/v1/completions", {{"model", "toy"}, {"prompt", "x"}, {"guided_regex", "("}});
  d.post("/v1/completions", {{"model", "toy"}, {"prompt", "x"}, {"guided_regex", "Hi .*"}});
  d.ask("GET", "/no/such/path");
  const auto after = d.ask("GET", "/metrics")->response.body;
  for (const char* line :
       {"troupe_requests_total{code=\"200\",endpoint=\"chat_completions\"} 1",
        "troupe_requests_total{code=\"404\",endpoint=\"other\"} 1",
        "troupe_time_to_first_token_seconds_count 2", "troupe_inter_token_latency_seconds_count 14",
        "troupe_prompt_tokens_total 9", "troupe_generation_tokens_total 16",
        "troupe_answer_forms_total{form=\"text\",outcome=\"kept\"} 1",
        "troupe_answer_forms_total{form=\"regex\",outcome=\"kept\"} 1",
        "troupe_answer_forms_total{form=\"regex\",outcome=\"refused\"} 1",
        "troupe_answer_form_compile_seconds_count 2", "troupe_requests_in_flight 0",
        "troupe_requests_queued 0"})
    EXPECT_NE(after.find(line), std::string::npos) << line;
}

TEST(application_info, only_admin_keys_change_the_cluster_where_there_are_any) {
  application_options options;
  options.keys = *api_keys::make({"sk-user"});
  options.admin_keys = *api_keys::make({"sk-admin"});
  door d([](const auto&) { return script{}; }, options);
  auto status = [&](const std::string& method, const std::string& target, const std::string& key) {
    auto r = make_request(method, target, "{}");
    r.headers.emplace_back("authorization", "Bearer " + key);
    auto x = d.call(std::move(r));
    EXPECT_TRUE(x->run_to_end());
    return x->response.status;
  };
  for (const char* target : {"/v1/cluster/drain", "/v1/cache/clear", "/v1/cache/pin"}) {
    EXPECT_EQ(status("POST", target, "sk-user"), 403) << target;
    EXPECT_NE(status("POST", target, "sk-admin"), 403) << target;
    EXPECT_EQ(status("POST", target, "sk-nobody"), 401) << target;
  }
  EXPECT_EQ(status("GET", "/v1/models", "sk-user"), 200);
  EXPECT_EQ(status("GET", "/v1/models", "sk-admin"), 200) << "it is good for all else, too";
}

TEST(application_info, a_node_of_the_servers_own_process_is_not_drained) {
  application_options options;
  options.own_nodes = {"kv-store-0", "decode-1"};
  door d([](const auto&) { return script{}; }, options);
  auto x = d.post("/v1/cluster/drain", {{"node", "decode-1"}, {"restart", true}, {"force", true}});
  EXPECT_EQ(x->response.status, 400);
  const auto e = json_of(*x)["error"];
  EXPECT_EQ(e["code"], "unsupported_value");
  EXPECT_EQ(e["param"], "node");
  for (const char* part : {"decode-1", "--single-process", "SIGTERM"})
    EXPECT_NE(e["message"].get<std::string>().find(part), std::string::npos) << part;
  EXPECT_EQ(d.post("/v1/cluster/drain", {{"node", "decode-2"}})->response.status, 200)
      << "a guest from another process";
}

TEST(application_info, every_status_of_an_error_has_its_own_count) {
  for (const ec code : {ec::invalid_argument, ec::not_found, ec::unauthorized, ec::queue_full,
                        ec::overloaded, ec::deadline_exceeded, ec::peer_lost}) {
    frontend_metrics metrics(prometheus::Labels{});
    const int status = from_error({code, "x"}).status;
    metrics.answered(endpoint::completions, status, 0);
    const std::string row =
        "troupe_requests_total{code=\"" + std::to_string(status) + "\",endpoint=\"completions\"} 1";
    EXPECT_NE(metrics.text().find(row), std::string::npos) << row;
  }
}

TEST(application_info, keys_guard_everything_but_the_probes) {
  application_options options;
  options.keys = *api_keys::make({"sk-first", "sk-second"});
  door d([](const auto&) { return script{}; }, options);
  auto status = [&](std::string method, std::string target, std::string authorization) {
    auto r = make_request(std::move(method), std::move(target), "{}");
    if (!authorization.empty()) r.headers.emplace_back("authorization", authorization);
    auto x = d.call(std::move(r));
    EXPECT_TRUE(x->run_to_end());
    EXPECT_EQ(x->response.body.find("sk-first"), std::string::npos);
    return x->response.status;
  };
  for (const char* target : {"/",
                             "/v1/models",
                             "/v1/models/toy",
                             "/v1/chat/completions",
                             "/v1/completions",
                             "/tokenize",
                             "/detokenize",
                             "/metrics",
                             "/version",
                             "/v1/cluster",
                             "/nothing",
                             "//health",
                             "/health/",
                             "/v1/../health",
                             "/%68ealth",
                             "/HEALTH",
                             "/live/../v1/models",
                             "//v1/models",
                             "http://host/v1/models",
                             "http://host//live",
                             "*",
                             ""})
    for (const char* method : {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "get"})
      for (const char* key : {"", "Bearer", "Bearer ", "Bearer sk", "Bearer sk-firs",
                              "Bearer sk-firstx", "Bearer SK-FIRST", "sk-first", "Basic sk-first",
                              "Basic Og==", "Token sk-first", "Bearer sk-first sk-second"})
        EXPECT_EQ(status(method, target, key), 401) << method << " " << target << " " << key;
  for (const char* target :
       {"/live", "/health", "/ready", "http://host/live", "/health?x=/v1/models"})
    EXPECT_EQ(status("GET", target, ""), 200) << target;
  EXPECT_EQ(status("POST", "/health", ""), 401);
  EXPECT_EQ(status("GET", "/v1/models", "Bearer sk-first"), 200);
  EXPECT_EQ(status("GET", "/v1/models", "bearer  sk-second"), 200);
  EXPECT_EQ(status("GET", "/", "Basic dTpzay1maXJzdA=="), 200)
      << "u:sk-first, as a browser sends it";
  EXPECT_EQ(status("GET", "/nothing", "Bearer sk-first"), 404);
}

TEST(application_info, paths_methods_and_types_have_their_errors) {
  door d;
  for (const char* path : {"/v1/embeddings", "/v1/responses", "/v1/messages", "/v1", "/v1/",
                           "/v1/chat", "/favicon.ico", "//", ""}) {
    auto x = d.ask("POST", path, "{}");
    EXPECT_EQ(x->response.status, 404) << path;
    EXPECT_EQ(json_of(*x)["error"]["code"], "unknown_url");
  }
  auto x = d.ask("GET", "/v1/chat/completions");
  EXPECT_EQ(x->response.status, 405);
  EXPECT_EQ(header(x->response, "Allow"), "POST");
  EXPECT_EQ(d.ask("DELETE", "/v1/models")->response.status, 405);
  EXPECT_EQ(d.ask("HEAD", "/v1/models")->response.status, 200);
  auto r = make_request("POST", "/v1/completions", "{\"prompt\":\"x\"}");
  r.headers.emplace_back("content-type", "text/plain");
  EXPECT_EQ(
      [&] {
        auto y = d.call(r);
        y->run_to_end();
        return y->response.status;
      }(),
      415);
  r.headers[0].second = "Application/JSON; charset=utf-8";
  EXPECT_EQ(
      [&] {
        auto y = d.call(r);
        y->run_to_end();
        return y->response.status;
      }(),
      200);
}

TEST(application_info, request_ids_are_taken_over_if_harmless) {
  door d;
  auto ask = [&](std::string id) {
    auto r = make_request("GET", "/live");
    r.headers.emplace_back("x-request-id", std::move(id));
    auto x = d.call(std::move(r));
    return header(x->response, "X-Request-Id");
  };
  EXPECT_EQ(ask("trace-1.A_b"), "trace-1.A_b");
  for (const char* bad : {"", "a b", "a\r\nX: y", "<script>"}) EXPECT_NE(ask(bad), bad);
  EXPECT_NE(ask(std::string(65, 'a')), std::string(65, 'a'));
}

TEST(application_info, the_page_is_one_file) {
  door d;
  auto x = d.ask("GET", "/");
  EXPECT_EQ(x->response.content_type, "text/html; charset=utf-8");
  EXPECT_EQ(x->response.body.find("http://"), std::string::npos);
  EXPECT_EQ(x->response.body.find("https://"), std::string::npos);
  EXPECT_FALSE(header(x->response, "Content-Security-Policy").empty());
}

}  // namespace
}  // namespace troupe::api
