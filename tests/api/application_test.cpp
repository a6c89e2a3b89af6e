// The doors that generate, without sockets: answers' exact shapes, failures.
#include "api/application.hpp"

#include <gtest/gtest.h>

#include "asks.hpp"

namespace troupe::api {
namespace {

using namespace testing;
using nlohmann::json;
using std::chrono::milliseconds;

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

}  // namespace
}  // namespace troupe::api
