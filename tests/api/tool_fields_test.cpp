// Tools, choices and calls in requests: what is taken and what is refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tool_asks.hpp"

namespace troupe::api {
namespace {

using namespace testing;
using nlohmann::json;
using ::testing::HasSubstr;

api_result<chat_request> parsed(const json& more) {
  return parse_chat(plus(tool_chat, more), limits);
}

TEST(tool_fields, choices_arrive) {
  EXPECT_EQ(parsed({})->tools.choice, tool_choice::automatic);
  EXPECT_EQ(parsed({{"tool_choice", "none"}})->tools.choice, tool_choice::none);
  EXPECT_EQ(parsed({{"tool_choice", "required"}})->tools.choice, tool_choice::required);
  EXPECT_EQ(parsed({{"tools", json::array()}, {"tool_choice", "auto"}})->tools.choice,
            tool_choice::none);
  const json named = {{"type", "function"}, {"function", {{"name", "ping"}}}};
  const auto r = parsed({{"tool_choice", named}, {"parallel_tool_calls", false}});
  EXPECT_EQ(r->tools.choice, tool_choice::named);
  EXPECT_EQ(r->tools.callable, std::vector<std::string>{"ping"});
  EXPECT_FALSE(r->tools.parallel);
  EXPECT_EQ(r->tools.tools[0].description, "Weather of a city");
  EXPECT_TRUE(r->tools.tools[1].call.parameters.empty());
}

TEST(tool_fields, some_tools_are_allowed) {
  const json one = {{"type", "function"}, {"function", {{"name", "ping"}}}};
  const auto may = parsed({{"tool_choice", allowed("auto", json::array({one}))}});
  EXPECT_EQ(may->tools.choice, tool_choice::automatic);
  EXPECT_TRUE(may->tools.may_call("ping"));
  EXPECT_FALSE(may->tools.may_call("get_weather"));
  EXPECT_EQ(may->tools.tools.size(), 2u) << "the model is told of all";
  const auto must = parsed({{"tool_choice", allowed("required", {one, weather})}});
  EXPECT_EQ(must->tools.choice, tool_choice::required);
  EXPECT_TRUE(must->tools.may_call("ping") && must->tools.may_call("get_weather"));
  EXPECT_TRUE(parsed({})->tools.may_call("ping"));
}

TEST(tool_fields, bad_ones_are_refused_by_name) {
  const auto param = [](const json& more) {
    const auto r = parsed(more);
    EXPECT_FALSE(r) << more;
    if (r) return std::string();
    EXPECT_EQ(r.error().status, 400);
    return r.error().param;
  };
  const auto function = [](const json& f) {
    return json{{"tools", {{{"type", "function"}, {"function", f}}}}};
  };
  for (const json& tools : {json(1), json("x"), json::object(), json({1}), json({json::object()}),
                            json({{{"type", "code_interpreter"}}}), json({weather, weather}),
                            json({{{"type", "function"}, {"function", "f"}}})})
    EXPECT_EQ(param({{"tools", tools}}), "tools") << tools;
  for (const json& name : {json(""), json("a b"), json("ä"), json(1), json(nullptr),
                           json(std::string(65, 'a')), json("a.b"), json("a\n")})
    EXPECT_EQ(param(function({{"name", name}})), "tools") << name;
  for (const json& parameters : {json(1), json::array(), json("{"), json(true)})
    EXPECT_EQ(param(function({{"name", "f"}, {"parameters", parameters}})), "tools") << parameters;
  EXPECT_EQ(param(function({{"name", "f"}, {"strict", 1}})), "tools");
  EXPECT_EQ(param(function({{"name", "f"}, {"description", 1}})), "tools");
  json many = json::array();
  for (int i = 0; i < 129; ++i)
    many.push_back({{"type", "function"}, {"function", {{"name", "f" + std::to_string(i)}}}});
  EXPECT_EQ(param({{"tools", many}}), "tools");
  many.erase(0);
  EXPECT_TRUE(parsed({{"tools", many}}));
  const json unknown = {{"type", "function"}, {"function", {{"name", "pong"}}}};
  for (const json& choice :
       {json("any"), json(1), json::object(), json({{"type", "function"}}),
        json({{"type", "x"}, {"function", {{"name", "ping"}}}}), unknown,
        json({{"type", "allowed_tools"}}),
        json({{"type", "allowed_tools"}, {"allowed_tools", "auto"}}),
        allowed("none", json::array({ping})), allowed(nullptr, json::array({ping})),
        allowed("auto", json::array()), allowed("auto", "ping"),
        allowed("auto", json::array({"ping"})), allowed("required", {ping, unknown})})
    EXPECT_EQ(param({{"tool_choice", choice}}), "tool_choice") << choice;
  EXPECT_EQ(param({{"tools", nullptr}, {"tool_choice", "required"}}), "tool_choice");
  EXPECT_EQ(param({{"parallel_tool_calls", 1}}), "parallel_tool_calls");
  EXPECT_EQ(param({{"functions", {1}}}), "functions");
  EXPECT_EQ(param({{"function_call", {{"name", "f"}}}}), "function_call");
}

TEST(tool_fields, messages_with_calls) {
  const auto fits = [](const json& message) {
    return parsed({{"messages", {{{"role", "user"}, {"content", "x"}}, message}}}).has_value();
  };
  const auto calling = [](const json& calls) {
    return json{{"role", "assistant"}, {"content", nullptr}, {"tool_calls", calls}};
  };
  const auto call = [](const json& arguments) {
    return json{{{"id", "a"},
                 {"type", "function"},
                 {"function", {{"name", "f"}, {"arguments", arguments}}}}};
  };
  for (const json& arguments :
       {json("{}"), json(""), json(R"({"a":1})"), json::object(), json(nullptr)})
    EXPECT_TRUE(fits(calling(call(arguments)))) << arguments;
  EXPECT_TRUE(fits(calling(json::array())));
  EXPECT_TRUE(fits({{"role", "tool"}, {"tool_call_id", "a"}, {"content", "21"}}));
  for (const json& calls : {json(1), json({1}), json({{{"id", "a"}}}), call("{"), call(1),
                            json({{{"id", 1}, {"function", {{"name", "f"}}}}})})
    EXPECT_FALSE(fits(calling(calls))) << calls;
  EXPECT_FALSE(fits({{"role", "user"}, {"content", "x"}, {"tool_calls", call("{}")}}));
  EXPECT_FALSE(fits({{"role", "tool"}, {"tool_call_id", 1}, {"content", "21"}}));
  EXPECT_FALSE(fits({{"role", "tool"}, {"tool_call_id", "a"}}));
}

// The body is shallow and its strings are not: what is made of them is walked recursively.
TEST(tool_fields, text_that_nests_without_end_is_refused) {
  const std::string deep = std::string(300'000, '[') + std::string(300'000, ']');
  const json call = {
      {{"id", "a"}, {"type", "function"}, {"function", {{"name", "f"}, {"arguments", deep}}}}};
  const json tool = {{"type", "function"}, {"function", {{"name", "f"}, {"parameters", deep}}}};
  const json user = {{"role", "user"}, {"content", "x"}};
  const json assistant = {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", call}};
  door d([](const auto&) { return script{}; }, {}, toy_model(1 << 20));
  for (const char* path : {"/v1/chat/completions", "/tokenize"}) {
    const auto refused = [&](const json& more) {
      auto x = d.post(path, plus(tool_chat, more));
      EXPECT_EQ(x->response.status, 400) << path;
      const json e = json_of(*x)["error"];
      EXPECT_THAT(e.value("message", ""), HasSubstr("64 levels"));
      return e.value("param", "");
    };
    EXPECT_EQ(refused({{"messages", {user, assistant, user}}}), "messages");
    EXPECT_EQ(refused({{"tools", {tool}}}), "tools");
  }
}

TEST(tool_fields, arguments_count_before_the_work) {
  const json call = {
      {{"id", "a"},
       {"type", "function"},
       {"function",
        {{"name", "f"}, {"arguments", json{{"a", std::string(100'000, 'x')}}.dump()}}}}};
  const json user = {{"role", "user"}, {"content", "x"}};
  const json assistant = {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", call}};
  door d([](const auto&) { return script{}; }, {}, toy_model(4096));
  auto x = d.post("/tokenize", {{"messages", {user, assistant, user}}});
  EXPECT_EQ(x->response.status, 400) << x->response.body;
  EXPECT_EQ(json_of(*x)["error"].value("code", ""), "context_length_exceeded");
}

}  // namespace
}  // namespace troupe::api
