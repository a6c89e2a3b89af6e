// Answers with calls of tools, whole and streamed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tool_asks.hpp"

namespace troupe::api {
namespace {

using namespace testing;
using nlohmann::json;

const std::string call_text =
    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Bonn\"}}\n</tool_call>";

TEST(tool_answer, a_whole_answer_holds_its_calls) {
  door d([](const auto&) { return says("I look.\n" + call_text + call_text); }, {},
         toy_model(4096));
  auto x = d.post("/v1/chat/completions", tool_chat);
  ASSERT_EQ(x->response.status, 200) << x->response.body;
  const auto c = json_of(*x)["choices"][0];
  EXPECT_EQ(c["finish_reason"], "tool_calls");
  EXPECT_EQ(c["message"]["content"], "I look.");
  ASSERT_EQ(c["message"]["tool_calls"].size(), 2u);
  const auto call = c["message"]["tool_calls"][0];
  EXPECT_EQ(call["type"], "function");
  EXPECT_EQ(call["function"]["name"], "get_weather");
  EXPECT_EQ(call["function"]["arguments"], "{\"city\": \"Bonn\"}");
  EXPECT_THAT(call["id"].get<std::string>(), ::testing::StartsWith("call_"));
  EXPECT_NE(call["id"], c["message"]["tool_calls"][1]["id"]);
  const auto warned = std::find_if(x->response.headers.begin(), x->response.headers.end(),
                                   [](const auto& h) { return h.first == "X-Troupe-Warning"; });
  EXPECT_NE(warned, x->response.headers.end()) << "the toy template knows no tools";
  const auto g = d.service.submitted().at(0);
  EXPECT_EQ(g.sampling.format.kind, engine::structured::format_kind::tool_calls);
  EXPECT_FALSE(json::parse(g.sampling.format.source)["required"].get<bool>());
}

const json in_json = {{"response_format", {{"type", "json_object"}}}};

TEST(tool_answer, is_calls_or_of_a_form) {
  const std::string form = R"({"a": "<tool_call>"})";
  std::string says_this = form;
  door d([&](const auto&) { return says(says_this); }, {}, toy_model(4096));
  auto c = json_of(*d.post("/v1/chat/completions", plus(tool_chat, in_json)))["choices"][0];
  EXPECT_EQ(c["message"]["content"], form);
  EXPECT_FALSE(c["message"].contains("tool_calls"));
  EXPECT_EQ(c["finish_reason"], "stop");
  const auto otherwise = [&](std::size_t request) {
    return json::parse(d.service.submitted().at(request).sampling.format.source)
        .value("otherwise", json());
  };
  EXPECT_EQ(otherwise(0)["kind"], "json_object");

  says_this = call_text;
  c = json_of(*d.post("/v1/chat/completions", plus(tool_chat, in_json)))["choices"][0];
  EXPECT_EQ(c["finish_reason"], "tool_calls");
  EXPECT_EQ(c["message"]["tool_calls"][0]["function"]["name"], "get_weather");

  const auto with = [&](const json& choice) {
    return d.post("/v1/chat/completions",
                  plus(plus(tool_chat, in_json), {{"tool_choice", choice}}));
  };
  EXPECT_EQ(json_of(*with("required"))["choices"][0]["finish_reason"], "tool_calls");
  EXPECT_TRUE(otherwise(2).is_null()) << "a call that must be leaves no room for a form";
  with("none");
  EXPECT_EQ(d.service.submitted().at(3).sampling.format.kind,
            engine::structured::format_kind::json_object);
}

TEST(tool_answer, a_form_beside_tools_is_compiled_and_counted_once) {
  door d([](const auto&) { return says(call_text); }, {}, toy_model(4096));
  const auto count = [&](const std::string& series) {
    const std::string text = d.ask("GET", "/metrics")->response.body;
    const auto at = text.find("\n" + series + " ");
    if (at == std::string::npos) throw std::runtime_error(series + " is missing");
    return std::stoi(text.substr(at + series.size() + 2));
  };
  const auto forms = [&](const std::string& form, const std::string& outcome) {
    return count("troupe_answer_forms_total{form=\"" + form + "\",outcome=\"" + outcome + "\"}");
  };
  EXPECT_EQ(d.post("/v1/chat/completions", plus(tool_chat, in_json))->response.status, 200);
  EXPECT_EQ(forms("tool_calls", "kept"), 1);
  EXPECT_EQ(forms("json_object", "kept"), 0);
  EXPECT_EQ(count("troupe_answer_form_compile_seconds_count"), 1);

  // Errors name the field that is to blame, and count for its form.
  const json bad = {{"response_format", {{"type", "json_schema"}, {"schema", {{"not", true}}}}}};
  const auto refused = d.post("/v1/chat/completions", plus(tool_chat, bad));
  EXPECT_EQ(refused->response.status, 400);
  EXPECT_EQ(json_of(*refused)["error"]["param"], "response_format");
  EXPECT_EQ(forms("json_schema", "refused"), 1);
  EXPECT_EQ(forms("tool_calls", "refused"), 0);
  EXPECT_EQ(count("troupe_answer_form_compile_seconds_count"), 2);
}

TEST(tool_answer, text_alone_is_as_ever) {
  door d([](const auto&) { return says("Just text \n"); }, {}, toy_model(4096));
  const auto c = json_of(*d.post("/v1/chat/completions", tool_chat))["choices"][0];
  EXPECT_EQ(c["message"]["content"], "Just text \n");
  EXPECT_FALSE(c["message"].contains("tool_calls"));
  EXPECT_EQ(c["finish_reason"], "stop");
}

TEST(tool_answer, a_named_call_ends_with_stop) {
  door d([](const auto&) { return says(call_text); }, {}, toy_model(4096));
  const json named = {{"type", "function"}, {"function", {{"name", "get_weather"}}}};
  const auto c = json_of(
      *d.post("/v1/chat/completions", plus(tool_chat, {{"tool_choice", named}})))["choices"][0];
  EXPECT_EQ(c["finish_reason"], "stop");
  EXPECT_TRUE(c["message"]["content"].is_null());
  EXPECT_EQ(c["message"]["tool_calls"].size(), 1u);
  const auto form = json::parse(d.service.submitted().at(0).sampling.format.source);
  EXPECT_EQ(form["tools"].size(), 1u);
  EXPECT_EQ(form["tools"][0]["name"], "get_weather");
  EXPECT_TRUE(form["required"].get<bool>());
  EXPECT_FALSE(form["parallel"].get<bool>());
}

TEST(tool_answer, calls_are_of_allowed_tools) {
  door d([](const auto&) { return says(call_text); }, {}, toy_model(4096));
  for (const char* mode : {"auto", "required"}) {
    const json choice = allowed(mode, json::array({weather}));
    const auto c = json_of(
        *d.post("/v1/chat/completions", plus(tool_chat, {{"tool_choice", choice}})))["choices"][0];
    EXPECT_EQ(c["finish_reason"], "tool_calls") << "not as with a named one";
    const auto request = d.service.submitted().back();
    const auto form = json::parse(request.sampling.format.source);
    EXPECT_EQ(form["tools"].size(), 1u);
    EXPECT_EQ(form["tools"][0]["name"], "get_weather");
    EXPECT_EQ(form["required"].get<bool>(), mode == std::string("required"));
    EXPECT_TRUE(form["parallel"].get<bool>());
  }
  d.post("/v1/chat/completions", tool_chat);
  EXPECT_EQ(d.service.submitted()[0].prompt, d.service.submitted()[2].prompt)
      << "what is cached of it stays of use";
}

TEST(tool_answer, a_call_that_is_cut_tells_its_length) {
  script cut = says(call_text);
  cut.reason = engine::finish_reason::length;
  door d([cut](const auto&) { return cut; }, {}, toy_model(4096));
  const auto c =
      json_of(*d.post("/v1/chat/completions", plus(tool_chat, {{"max_tokens", 60}})))["choices"][0];
  const auto function = c["message"]["tool_calls"][0]["function"];
  EXPECT_EQ(function["name"], "get_weather");
  EXPECT_THAT(function["arguments"].get<std::string>(), ::testing::StartsWith("{\"ci"));
  EXPECT_EQ(c["finish_reason"], "length");
}

TEST(tool_answer, streams_a_call_in_pieces) {
  for (const std::size_t per_event : {1u, 3u, 7u, 1000u}) {
    door d([per_event](const auto&) { return says("Hm. " + call_text + call_text, per_event); }, {},
           toy_model(4096));
    auto x = d.post("/v1/chat/completions",
                    plus(tool_chat, {{"stream", true}, {"logprobs", true}, {"top_logprobs", 0}}));
    const auto chunks = chunks_of(x->body);
    ASSERT_EQ(chunks.back(), "[DONE]");
    EXPECT_EQ(chunks[0]["choices"][0]["delta"], json({{"role", "assistant"}, {"content", ""}}));
    std::string text, finish;
    std::vector<std::string> names, arguments;
    std::size_t logprobs = 0;
    for (std::size_t i = 1; i + 1 < chunks.size(); ++i) {
      const auto& c = chunks[i]["choices"][0];
      if (c["logprobs"].is_object()) logprobs += c["logprobs"]["content"].size();
      if (c["finish_reason"].is_string()) finish = c["finish_reason"];
      const auto& delta = c["delta"];
      if (delta.contains("content")) text += delta["content"].get<std::string>();
      for (const auto& call : delta.value("tool_calls", json::array())) {
        const auto index = call["index"].get<std::size_t>();
        if (call.contains("id")) {
          EXPECT_EQ(index, names.size());
          EXPECT_EQ(call["type"], "function");
          EXPECT_EQ(call["function"]["arguments"], "");
          names.push_back(call["function"]["name"]);
          arguments.emplace_back();
        } else {
          EXPECT_EQ(call.size(), 2u) << call;
          ASSERT_LT(index, arguments.size());
          arguments[index] += call["function"]["arguments"].get<std::string>();
        }
      }
    }
    EXPECT_EQ(text, "Hm.");
    EXPECT_EQ(finish, "tool_calls");
    EXPECT_THAT(names, ::testing::ElementsAre("get_weather", "get_weather"));
    EXPECT_THAT(arguments, ::testing::Each("{\"city\": \"Bonn\"}"));
    EXPECT_EQ(logprobs, 4 + 2 * call_text.size());
  }
}

TEST(tool_answer, refusals) {
  door d([](const auto&) { return script{}; }, {}, toy_model(4096));
  const auto param = [&](const json& more) {
    auto x = d.post("/v1/chat/completions", plus(tool_chat, more));
    EXPECT_EQ(x->response.status, 400) << more;
    return json_of(*x)["error"].value("param", "");
  };
  json strict = weather;
  strict["function"]["strict"] = true;
  strict["function"]["parameters"]["properties"]["city"]["not"] = json::object();
  EXPECT_EQ(param({{"tools", {strict}}}), "tools");
  json text = weather;
  text["function"]["parameters"] = {{"type", "string"}};
  EXPECT_EQ(param({{"tools", {text}}}), "tools");
  EXPECT_EQ(param({{"response_format", {{"type", "json_schema"}}}}), "response_format");
  auto none = std::make_shared<served_model>(*toy_model(4096));
  none->tools.served = false;
  door refusing([](const auto&) { return script{}; }, {}, none);
  EXPECT_EQ(refusing.post("/v1/chat/completions", tool_chat)->response.status, 400);
  EXPECT_EQ(refusing.post("/v1/chat/completions", plus(tool_chat, {{"tool_choice", "none"}}))
                ->response.status,
            200);
}

}  // namespace
}  // namespace troupe::api
