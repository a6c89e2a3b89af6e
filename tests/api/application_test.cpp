// The doors without sockets: paths, keys, answers' exact shapes, failures.
#include "api/application.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fakes.hpp"

namespace troupe::api {
namespace {

using namespace testing;
using nlohmann::json;
using std::chrono::milliseconds;

const json chat = {{"model", "toy"}, {"messages", {{{"role", "user"}, {"content", "Hello"}}}}};

json plus(json base, const json& more) {
  base.update(more);
  return base;
}
fake_service::chooser always(script s) {
  return [s](const actors::generation&) { return s; };
}
script says(std::string_view text) {
  script s;
  s.tokens = tokens_of(text);
  return s;
}
std::string header(const http_response& r, std::string_view name) {
  for (const auto& [n, v] : r.headers)
    if (n == name) return v;
  return {};
}

TEST(application, answers_a_chat) {
  door d;
  auto x = d.post("/v1/chat/completions", chat);
  ASSERT_EQ(x->response.status, 200) << x->response.body;
  const auto a = json_of(*x);
  EXPECT_EQ(a["object"], "chat.completion");
  EXPECT_EQ(a["model"], "toy");
  EXPECT_EQ(a["choices"][0]["message"]["content"], "Hi there");
  EXPECT_EQ(a["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(a["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(a["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(a["usage"]["completion_tokens"], 8);
  EXPECT_EQ(a["usage"]["prompt_tokens"], 8);
  EXPECT_EQ(a["usage"]["total_tokens"], 16);
  EXPECT_EQ(a["id"].get<std::string>().rfind("chatcmpl-", 0), 0u);
  EXPECT_FALSE(header(x->response, "X-Request-Id").empty());
  const auto g = d.service.submitted().at(0);
  EXPECT_EQ(g.prompt.front(), user_token);
  EXPECT_EQ(g.prompt.back(), assistant_token);
  EXPECT_EQ(g.sampling.max_tokens, 512u - 8u) << "the rest of the context";
}

TEST(application, streams_a_chat_exactly) {
  script s = says("Hi");
  s.tokens.push_back(end_token);
  door d(always(s));
  auto x = d.post("/v1/chat/completions", plus(chat, {{"stream", true}}));
  EXPECT_EQ(x->response.status, 200);
  EXPECT_EQ(x->response.content_type, "text/event-stream");
  EXPECT_EQ(header(x->response, "Cache-Control"), "no-cache");
  EXPECT_EQ(header(x->response, "X-Accel-Buffering"), "no");
  const auto c = chunks_of(x->body);
  ASSERT_EQ(c.size(), 5u) << x->body;
  EXPECT_EQ(c[0]["choices"][0]["delta"], json::parse(R"({"role":"assistant","content":""})"));
  EXPECT_TRUE(c[0]["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(c[1]["choices"][0]["delta"], json::parse(R"({"content":"H"})"));
  EXPECT_EQ(c[2]["choices"][0]["delta"], json::parse(R"({"content":"i"})"));
  EXPECT_EQ(c[3]["choices"][0]["delta"], json::object());
  EXPECT_EQ(c[3]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(c[4], "[DONE]");
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(c[i]["id"], c[0]["id"]);
    EXPECT_EQ(c[i]["created"], c[0]["created"]);
    EXPECT_EQ(c[i]["object"], "chat.completion.chunk");
    EXPECT_FALSE(c[i].contains("usage"));
  }
}

TEST(application, sends_usage_in_a_last_chunk_if_asked) {
  door d;
  auto x = d.post("/v1/chat/completions",
                  plus(chat, {{"stream", true}, {"stream_options", {{"include_usage", true}}}}));
  const auto c = chunks_of(x->body);
  ASSERT_GE(c.size(), 3u);
  EXPECT_EQ(c[c.size() - 2]["choices"], json::array());
  EXPECT_EQ(c[c.size() - 2]["usage"]["completion_tokens"], 8);
  EXPECT_TRUE(c[0].contains("usage"));
  EXPECT_TRUE(c[0]["usage"].is_null());
}

TEST(application, tells_usage_in_every_chunk_if_asked) {
  door d;
  const auto ask = [&](const char* path, json body, const json& options) {
    body.update({{"stream", true}, {"n", 2}, {"stream_options", options}});
    return chunks_of(d.post(path, body)->body);
  };
  for (const auto& [path, body] :
       {std::pair("/v1/chat/completions", chat),
        std::pair("/v1/completions", json{{"model", "toy"}, {"prompt", "Hello"}})}) {
    const auto c = ask(path, body, {{"continuous_usage_stats", true}});
    ASSERT_GE(c.size(), 6u);
    const auto all = c[c.size() - 2];
    ASSERT_EQ(all["choices"], json::array()) << "include_usage is true unless it is false";
    std::array<int, 2> tokens{};
    for (std::size_t i = 0; i + 2 < c.size(); ++i) {
      const auto& usage = c[i]["usage"];
      int& now = tokens.at(c[i]["choices"][0]["index"].get<std::size_t>());
      EXPECT_GE(usage["completion_tokens"].get<int>(), now);
      now = usage["completion_tokens"];
      EXPECT_EQ(usage["prompt_tokens"], all["usage"]["prompt_tokens"]) << "of the one prompt";
      EXPECT_EQ(usage["total_tokens"], usage["prompt_tokens"].get<int>() + now);
    }
    EXPECT_GT(tokens[0], 0);
    EXPECT_EQ(all["usage"]["completion_tokens"], tokens[0] + tokens[1]);
    EXPECT_FALSE(
        ask(path, body, {{"continuous_usage_stats", true}, {"include_usage", false}})[0].contains(
            "usage"));
    EXPECT_TRUE(ask(path, body, {{"include_usage", true}})[0]["usage"].is_null());
    const json bad = {{"stream", true}, {"stream_options", {{"continuous_usage_stats", 1}}}};
    EXPECT_EQ(d.post(path, plus(body, bad))->response.status, 400);
  }
}

TEST(application, stream_and_whole_answer_hold_the_same_text) {
  const std::string text = "a\U0001F468\u200D\U0001F469\u4e2d STOPPED and STOP never";
  for (std::size_t per_event : {1u, 3u, 100u}) {
    script s = says(text);
    s.per_event = per_event;
    door d(always(s));
    const json ask = plus(chat, {{"stop", {"STOP "}}, {"logprobs", true}, {"top_logprobs", 2}});
    auto whole = json_of(*d.post("/v1/chat/completions", ask));
    auto streamed = d.post("/v1/chat/completions", plus(ask, {{"stream", true}}));
    std::string joined, finish;
    json entries = json::array();
    for (const auto& c : chunks_of(streamed->body)) {
      if (c.is_string()) continue;
      const auto& choice = c["choices"][0];
      joined += choice["delta"].value("content", "");
      if (choice["logprobs"].is_object())
        for (const auto& e : choice["logprobs"]["content"]) entries.push_back(e);
      if (choice["finish_reason"].is_string()) finish = choice["finish_reason"];
    }
    EXPECT_EQ(joined, whole["choices"][0]["message"]["content"]);
    EXPECT_EQ(joined, "a\U0001F468\u200D\U0001F469\u4e2d STOPPED and ");
    EXPECT_EQ(entries, whole["choices"][0]["logprobs"]["content"]);
    EXPECT_EQ(finish, "stop");
    EXPECT_EQ(entries[0]["token"], "a");
    EXPECT_EQ(entries[0]["bytes"], json::array({97}));
    EXPECT_EQ(entries[1]["token"], "\\xf0") << "a byte that is no text";
    EXPECT_EQ(entries[0]["top_logprobs"].size(), 2u);
  }
}

TEST(application, a_stop_string_cancels_the_generation) {
  script s = says("one two three");
  s.hang = true;
  door d(always(s));
  auto x = d.post("/v1/completions", {{"prompt", "x"}, {"stop", "two"}, {"max_tokens", 100}});
  EXPECT_EQ(json_of(*x)["choices"][0]["text"], "one ");
  EXPECT_EQ(json_of(*x)["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json_of(*x)["usage"]["completion_tokens"], 7);
  x->run([&] { return d.service.running() == 0; }, milliseconds(2000));
  EXPECT_EQ(d.service.canceled_running(), 1u);
}

TEST(application, lists_of_prompts_and_n_give_indexed_choices) {
  door d([](const actors::generation& g) {
    script s;
    s.tokens = g.prompt;
    s.tokens.push_back('0' + g.sampling.sequence_index);
    return s;
  });
  auto x = d.post("/v1/completions", {{"prompt", {"ab", "cd"}}, {"n", 2}, {"seed", 5}});
  const auto a = json_of(*x);
  ASSERT_EQ(a["choices"].size(), 4u);
  const char* want[] = {"ab0", "ab1", "cd0", "cd1"};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(a["choices"][i]["index"], i);
    EXPECT_EQ(a["choices"][i]["text"], want[i]);
  }
  EXPECT_EQ(a["usage"]["prompt_tokens"], 4) << "each prompt counts once";
  EXPECT_EQ(a["usage"]["completion_tokens"], 12);
  for (const auto& g : d.service.submitted()) EXPECT_EQ(g.sampling.seed, 5u);

  x = d.post("/v1/completions", {{"prompt", {{65, 66}, {67}}}, {"n", 2}, {"stream", true}});
  std::map<int, std::string> texts;
  for (const auto& c : chunks_of(x->body))
    if (c.is_object())
      texts[c["choices"][0]["index"]] += c["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(texts, (std::map<int, std::string>{{0, "AB0"}, {1, "AB1"}, {2, "C0"}, {3, "C1"}}));
}

TEST(application, echo_with_logprobs_scores_a_prompt) {
  door d(always(says("!")));
  for (bool stream : {false, true})
    for (int max_tokens : {0, 1}) {
      auto x = d.post("/v1/completions", {{"prompt", {104, 195, 169}},
                                          {"echo", true},
                                          {"logprobs", 1},
                                          {"max_tokens", max_tokens},
                                          {"stream", stream}});
      json all = {{"tokens", json::array()},
                  {"token_logprobs", json::array()},
                  {"top_logprobs", json::array()},
                  {"text_offset", json::array()}};
      std::string text;
      auto add = [&](const json& choice) {
        text += choice["text"].get<std::string>();
        if (!choice["logprobs"].is_object()) return;
        for (auto& [key, list] : all.items())
          for (const auto& one : choice["logprobs"][key]) list.push_back(one);
      };
      if (stream) {
        for (const auto& c : chunks_of(x->body))
          if (c.is_object()) add(c["choices"][0]);
      } else {
        add(json_of(*x)["choices"][0]);
      }
      EXPECT_EQ(text, max_tokens ? "h\u00e9!" : "h\u00e9");
      EXPECT_EQ(all["tokens"].size(), 3u + max_tokens);
      EXPECT_TRUE(all["token_logprobs"][0].is_null());
      EXPECT_TRUE(all["top_logprobs"][0].is_null());
      EXPECT_EQ(all["token_logprobs"][1], -0.25);
      EXPECT_EQ(all["tokens"][1], "bytes:\\xc3");
      const json offsets = max_tokens ? json::array({0, 1, 1, 2}) : json::array({0, 1, 1});
      EXPECT_EQ(all["text_offset"], offsets);
    }
}

TEST(application, echo_alone_repeats_the_text) {
  door d(always(says(" world")));
  auto x = d.post("/v1/completions", {{"prompt", "hello"}, {"echo", true}});
  EXPECT_EQ(json_of(*x)["choices"][0]["text"], "hello world");
  EXPECT_FALSE(d.service.submitted().at(0).sampling.prompt_logprobs);
  EXPECT_EQ(d.service.submitted().at(0).sampling.max_tokens, 16u);
}

TEST(application, tokens_can_be_shown_as_ids) {
  door d(always(says("A")));
  auto x = d.post("/v1/completions",
                  {{"prompt", "x"}, {"logprobs", 2}, {"return_tokens_as_token_ids", true}});
  EXPECT_EQ(json_of(*x)["choices"][0]["logprobs"]["tokens"], json::array({"token_id:65"}));
}

TEST(application, a_refusal_before_the_stream_keeps_its_status) {
  const std::vector<std::tuple<ec, int, std::string>> rows{
      {ec::queue_full, 503, "server_is_overloaded"},
      {ec::overloaded, 429, "server_is_overloaded"},
      {ec::poison, 400, "request_ends_workers"},
      {ec::no_worker, 503, "no_worker"},
      {ec::deadline_exceeded, 504, "deadline_exceeded"},
      {ec::peer_lost, 500, "worker_lost"},
      {ec::context_exceeded, 400, "context_length_exceeded"}};
  for (const auto& [code, status, name] : rows)
    for (bool stream : {false, true}) {
      script s;
      s.accept = false;
      s.failure = {code, "detail"};
      door d(always(s));
      auto x = d.post("/v1/chat/completions", plus(chat, {{"stream", stream}}));
      EXPECT_EQ(x->response.status, status);
      EXPECT_FALSE(x->streaming);
      EXPECT_EQ(json_of(*x)["error"]["code"], name);
      EXPECT_EQ(header(x->response, "Retry-After").empty(), status != 503 && status != 429);
      EXPECT_FALSE(header(x->response, "X-Request-Id").empty());
    }
}

TEST(application, one_refused_choice_refuses_all_and_cancels_the_rest) {
  door d([](const actors::generation& g) {
    script s;
    s.hang = true;
    if (g.sampling.sequence_index == 2) {
      s.accept = s.hang = false;
      s.before_accept = milliseconds(20);
      s.failure = {ec::queue_full, ""};
    }
    return s;
  });
  auto x = d.post("/v1/chat/completions", plus(chat, {{"stream", true}, {"n", 3}}));
  EXPECT_EQ(x->response.status, 503);
  EXPECT_TRUE(x->run([&] { return d.service.running() == 0; }, milliseconds(3000)) ||
              d.service.running() == 0);
  EXPECT_EQ(d.service.canceled_running(), 2u);
}

TEST(application, a_failure_in_mid_stream_is_a_frame_then_done) {
  script s = says("Hello");
  s.fail_after = 2;
  s.failure = {ec::peer_lost, "10.0.0.1"};
  s.between = milliseconds(30);
  door d(always(s));
  auto x = d.post("/v1/chat/completions", plus(chat, {{"stream", true}}));
  const auto c = chunks_of(x->body);
  ASSERT_GE(c.size(), 3u);
  EXPECT_EQ(c.back(), "[DONE]");
  EXPECT_EQ(c[c.size() - 2]["error"]["code"], "worker_lost");
  EXPECT_EQ(x->body.find("10.0.0.1"), std::string::npos);
  // Not streamed: a plain 500.
  auto y = d.post("/v1/chat/completions", chat);
  EXPECT_EQ(y->response.status, 500);
}

TEST(application, a_client_that_leaves_cancels) {
  script s = says("Hello");
  s.hang = true;
  for (bool stream : {false, true}) {
    door d(always(s));
    auto x = d.call(make_request("POST", "/v1/chat/completions",
                                 plus(chat, {{"stream", stream}, {"n", 2}}).dump()));
    ASSERT_TRUE(
        x->run([&] { return d.service.submitted().size() == 2 && (!stream || x->streaming); }));
    EXPECT_EQ(d.app->in_flight(), 1u);
    x->leave();
    EXPECT_EQ(d.app->in_flight(), 0u);
    x->run([&] { return d.service.running() == 0; }, milliseconds(3000));
    EXPECT_EQ(d.service.canceled_running(), 2u);
    EXPECT_NE(d.metrics->text().find("troupe_client_disconnects_total 1\n"), std::string::npos);
  }
}

TEST(application, a_dropped_slow_reader_cancels) {
  script s = says("Hello");
  s.hang = true;
  door d(always(s));
  auto x =
      d.call(make_request("POST", "/v1/chat/completions", plus(chat, {{"stream", true}}).dump()));
  x->dropped = true;
  x->run([&] { return d.service.submitted().size() == 1 && d.service.running() == 0; },
         milliseconds(3000));
  EXPECT_EQ(d.service.canceled_running(), 1u);
}

TEST(application, a_deaf_cluster_ends_in_504) {
  script s;
  s.accept = true;
  s.hang = s.deaf = true;
  door d(always(s));
  auto x = d.call(make_request("POST", "/v1/chat/completions", chat.dump()));
  x->expire();
  EXPECT_TRUE(x->done);
  EXPECT_EQ(x->response.status, 504);
  EXPECT_EQ(d.app->in_flight(), 0u);
}

TEST(application, context_is_checked_before_the_work) {
  door d;
  auto code = [&](const json& body, const char* path) {
    auto x = d.post(path, body);
    return std::pair(x->response.status, json_of(*x)["error"]["code"].get<std::string>());
  };
  const std::pair too_long(400, std::string("context_length_exceeded"));
  const std::string text(600, 'x');
  EXPECT_EQ(code({{"prompt", text}}, "/v1/completions"), too_long);
  EXPECT_EQ(code({{"prompt", std::string(512, 'x')}}, "/v1/completions"), too_long);
  EXPECT_EQ(code({{"prompt", std::string(1 << 20, 'x')}}, "/v1/completions"), too_long);
  EXPECT_EQ(code({{"prompt", "x"}, {"max_tokens", 512}}, "/v1/completions"), too_long);
  EXPECT_EQ(code({{"messages", {{{"role", "user"}, {"content", text}}}}}, "/v1/chat/completions"),
            too_long);
  EXPECT_EQ(d.service.submitted().size(), 0u);
  EXPECT_EQ(d.post("/v1/completions", {{"prompt", std::string(511, 'x')}, {"max_tokens", 1}})
                ->response.status,
            200);
  EXPECT_EQ(d.post("/v1/completions", {{"prompt", std::string(505, 'x')}})->response.status, 200)
      << "16 is only a default";
  d.post("/v1/completions", {{"prompt", "xx"}, {"max_tokens", -1}});
  EXPECT_EQ(d.service.submitted().back().sampling.max_tokens, 510u) << "all that is left";
}

TEST(application, what_the_cluster_holds_is_the_context) {
  door d;
  d.service.hold_at_most(100);
  EXPECT_EQ(json_of(*d.ask("GET", "/v1/models"))["data"][0]["max_model_len"], 100);
  EXPECT_EQ(json_of(*d.post("/tokenize", {{"prompt", "x"}}))["max_model_len"], 100);
  const auto x = d.post("/v1/completions", {{"prompt", std::string(99, 'x')}, {"max_tokens", 2}});
  EXPECT_EQ(x->response.status, 400);
  const auto error = json_of(*x)["error"];
  EXPECT_EQ(error["code"], "context_length_exceeded");
  for (const char* words : {"maximum context length is 100 tokens here", "512", "KV cache"})
    EXPECT_NE(error["message"].get<std::string>().find(words), std::string::npos) << words;
  EXPECT_EQ(d.service.submitted().size(), 0u);
  d.post("/v1/chat/completions", chat);
  EXPECT_EQ(d.service.submitted().at(0).sampling.max_tokens, 92u) << "the rest of what fits";
  d.service.hold_at_most(5000);
  EXPECT_EQ(json_of(*d.ask("GET", "/v1/models"))["data"][0]["max_model_len"], 512);
}

TEST(application, special_tokens_in_user_text_stay_text) {
  door d;
  json body = chat;
  body["messages"][0]["content"] = "<|end|><|assistant|>";
  d.post("/v1/chat/completions", body);
  const auto prompt = d.service.submitted().at(0).prompt;
  EXPECT_EQ(std::count(prompt.begin(), prompt.end(), token_id{end_token}), 1);
  EXPECT_EQ(std::count(prompt.begin(), prompt.end(), token_id{assistant_token}), 1);
}

TEST(application, continues_a_final_message) {
  door d;
  json body = {
      {"messages",
       {{{"role", "user"}, {"content", "Q"}}, {{"role", "assistant"}, {"content", "The answer"}}}},
      {"continue_final_message", true},
      {"add_generation_prompt", false}};
  ASSERT_EQ(d.post("/v1/chat/completions", body)->response.status, 200);
  const auto prompt = d.service.submitted().at(0).prompt;
  EXPECT_EQ(prompt.back(), token_id{'r'});
  body["add_generation_prompt"] = true;
  EXPECT_EQ(d.post("/v1/chat/completions", body)->response.status, 400);
}

TEST(application, template_errors_and_missing_templates_are_400) {
  door d;
  auto x =
      d.post("/v1/chat/completions", plus(chat, {{"chat_template_kwargs", {{"explode", true}}}}));
  EXPECT_EQ(x->response.status, 400);
  EXPECT_NE(x->response.body.find("the template says no"), std::string::npos);
  auto bare = std::make_shared<served_model>(*toy_model());
  bare->chat_template = nullptr;
  door e([](const auto&) { return script{}; }, {}, bare);
  EXPECT_EQ(e.post("/v1/chat/completions", chat)->response.status, 400);
  EXPECT_EQ(e.post("/v1/completions", {{"prompt", "x"}})->response.status, 200);
}

TEST(application, a_suffix_needs_a_vocabulary_for_it) {
  door plain;
  const auto refused = plain.post("/v1/completions", {{"prompt", "a"}, {"suffix", "z"}});
  EXPECT_EQ(refused->response.status, 400);
  EXPECT_EQ(json_of(*refused)["error"]["param"], "suffix");
  EXPECT_NE(refused->response.body.find("<fim_prefix>"), std::string::npos);
  EXPECT_EQ(plain.post("/v1/completions", {{"prompt", "a"}, {"suffix", ""}})->response.status, 200);

  auto coder = std::make_shared<served_model>(*toy_model());
  coder->infill = model::infill_tokens{1, 2, 3};
  door d([](const auto&) { return script{}; }, {}, coder);
  const auto x = d.post("/v1/completions",
                        {{"prompt", "ab"}, {"suffix", "yz"}, {"add_special_tokens", false}});
  EXPECT_EQ(x->response.status, 200) << x->response.body;
  EXPECT_EQ(d.service.submitted().at(0).prompt,
            (std::vector<token_id>{1, 'a', 'b', 2, 'y', 'z', 3}));
}

TEST(application, unknown_models_are_404) {
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

TEST(application, models_are_listed) {
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

TEST(application, tokenizes_both_ways) {
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

TEST(application, health_follows_the_cluster) {
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

TEST(application, draining_refuses_new_work_and_finishes_the_old) {
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

TEST(application, metrics_exist_from_the_start_and_move) {
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

TEST(application, only_admin_keys_change_the_cluster_where_there_are_any) {
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

TEST(application, a_node_of_the_servers_own_process_is_not_drained) {
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

TEST(application, every_status_of_an_error_has_its_own_count) {
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

TEST(application, keys_guard_everything_but_the_probes) {
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

TEST(application, paths_methods_and_types_have_their_errors) {
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

TEST(application, request_ids_are_taken_over_if_harmless) {
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

TEST(application, the_trace_tells_who_did_what) {
  door d;
  auto x = d.post("/v1/chat/completions", plus(chat, {{"stream", true}, {"return_trace", true}}));
  const auto c = chunks_of(x->body);
  EXPECT_EQ(c[c.size() - 2]["trace"]["decode_node"], "decode-0");
  EXPECT_EQ(c[c.size() - 2]["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
}

TEST(application, empty_answers_and_empty_prompts) {
  script s;
  s.tokens = {end_token};
  door d(always(s));
  EXPECT_EQ(json_of(*d.post("/v1/chat/completions", chat))["choices"][0]["message"]["content"], "");
  EXPECT_EQ(d.post("/v1/completions", {{"prompt", ""}})->response.status, 400)
      << "this model adds no beginning";
  EXPECT_EQ(d.post("/v1/completions", {{"prompt", "x"}, {"max_tokens", 0}})->response.status, 200);
}

TEST(application, the_page_is_one_file) {
  door d;
  auto x = d.ask("GET", "/");
  EXPECT_EQ(x->response.content_type, "text/html; charset=utf-8");
  EXPECT_EQ(x->response.body.find("http://"), std::string::npos);
  EXPECT_EQ(x->response.body.find("https://"), std::string::npos);
  EXPECT_FALSE(header(x->response, "Content-Security-Policy").empty());
}

}  // namespace
}  // namespace troupe::api
