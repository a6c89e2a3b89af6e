// What a model is told of tools and of calls.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "api/tool_prompt.hpp"
#include "tool_asks.hpp"

namespace troupe::api {
namespace {

using namespace testing;
using engine::structured::call_syntax;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

std::shared_ptr<const served_model> model_with(const std::string& name) {
  auto m = std::make_shared<served_model>(*toy_model(1 << 16));
  std::ifstream file(std::string(TROUPE_SOURCE_DIR "/tests/reference/templates/") + name);
  std::stringstream source;
  source << file.rdbuf();
  auto made = model::chat_template::make(source.str());
  EXPECT_TRUE(made) << name;
  m->chat_template = *made;
  m->tools = tool_manner_of(**made, "auto");
  return m;
}

std::string prompt_of(const served_model& m, const json& more) {
  json body = plus(tool_chat, more);
  auto request = parse_chat(body, limits);
  EXPECT_TRUE(request) << (request ? "" : request.error().message);
  if (!request) return {};
  auto ids = tokenize_chat(m, *request);
  EXPECT_TRUE(ids) << (ids ? "" : ids.error().message);
  return ids ? m.tokenizer->decode(*ids, true) : std::string();
}

const json conversation = json::parse(R"([
  {"role":"user","content":"Weather in Bonn?"},
  {"role":"assistant","content":null,"tool_calls":[{"id":"call_0123456789","type":"function",
    "function":{"name":"get_weather","arguments":"{\"unit\":\"c\",\"city\":\"Bonn\"}"}}]},
  {"role":"tool","tool_call_id":"call_0123456789","content":"21 degrees"}])");

TEST(tool_prompt, templates_show_how_calls_are_written) {
  const auto of = [](const char* name) { return model_with(name)->tools; };
  EXPECT_EQ(of("qwen2.5.jinja").syntax, call_syntax::hermes);
  EXPECT_TRUE(of("qwen3.jinja").tools_in_template);
  EXPECT_EQ(of("llama-3.1.jinja").syntax, call_syntax::llama3_json);
  EXPECT_EQ(of("mistral-tools.jinja").syntax, call_syntax::mistral);
  EXPECT_TRUE(of("mistral-tools.jinja").calls_in_template);
  EXPECT_EQ(of("deepseek-v3.jinja").syntax, call_syntax::deepseek_v3);
  EXPECT_TRUE(of("deepseek-v3.jinja").calls_in_template);
  EXPECT_FALSE(of("deepseek-v3.jinja").tools_in_template);
  EXPECT_EQ(of("qwen3-coder.jinja").syntax, call_syntax::qwen3_coder);
  EXPECT_TRUE(of("qwen3-coder.jinja").tools_in_template);
  EXPECT_TRUE(of("qwen3-coder.jinja").calls_in_template);
  for (const char* name : {"chatml.jinja", "gemma-3.jinja"}) {
    EXPECT_EQ(of(name).syntax, call_syntax::hermes) << name;
    EXPECT_FALSE(of(name).tools_in_template) << name;
    EXPECT_FALSE(of(name).calls_in_template) << name;
  }
  const auto t = model_with("chatml.jinja")->chat_template;
  EXPECT_EQ(tool_manner_of(*t, "mistral").syntax, call_syntax::mistral);
  EXPECT_FALSE(tool_manner_of(*t, "none").served);
}

TEST(tool_prompt, templates_that_know_tools_get_them) {
  const std::string qwen = prompt_of(*model_with("qwen2.5.jinja"), {{"messages", conversation}});
  EXPECT_THAT(
      qwen,
      HasSubstr(
          R"({"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {)"));
  EXPECT_THAT(qwen,
              HasSubstr(R"({"name": "get_weather", "arguments": {"unit": "c", "city": "Bonn"}})"));
  EXPECT_THAT(qwen, HasSubstr("<tool_response>\n21 degrees\n</tool_response>"));
  EXPECT_THAT(qwen, Not(HasSubstr("None")));

  const std::string llama = prompt_of(*model_with("llama-3.1.jinja"), {{"messages", conversation}});
  EXPECT_THAT(llama,
              HasSubstr(R"({"name": "get_weather", "parameters": {"unit": "c", "city": "Bonn"}})"));

  const std::string mistral =
      prompt_of(*model_with("mistral-tools.jinja"), {{"messages", conversation}});
  EXPECT_THAT(mistral, HasSubstr("[AVAILABLE_TOOLS]"));
  const auto id = mistral.find("\"id\": \"");
  ASSERT_NE(id, mistral.npos);
  const std::string short_id = mistral.substr(id + 7, 9);
  EXPECT_THAT(mistral, HasSubstr("\"call_id\": \"" + short_id + "\""));

  json with_null = conversation;  // as some clients write what is not there
  with_null[0]["tool_call_id"] = nullptr;
  EXPECT_EQ(prompt_of(*model_with("mistral-tools.jinja"), {{"messages", with_null}}), mistral);

  const std::string without = prompt_of(*model_with("qwen2.5.jinja"), {{"tool_choice", "none"}});
  EXPECT_THAT(without, Not(HasSubstr("get_weather")));
}

TEST(tool_prompt, deepseek_and_qwen_coder_see_calls_as_they_write_them) {
  const std::string coder =
      prompt_of(*model_with("qwen3-coder.jinja"), {{"messages", conversation}});
  EXPECT_THAT(coder, HasSubstr("<name>get_weather</name>"));
  EXPECT_THAT(coder,
              HasSubstr("<tool_call>\n<function=get_weather>\n<parameter=unit>\nc\n</parameter>\n"
                        "<parameter=city>\nBonn\n</parameter>\n</function>\n</tool_call>"));
  const std::string deepseek =
      prompt_of(*model_with("deepseek-v3.jinja"), {{"messages", conversation}});
  EXPECT_THAT(deepseek,
              HasSubstr("get_weather\n```json\n{\"unit\": \"c\", \"city\": \"Bonn\"}\n```"));
  // Its template does not show tools: our words show how it writes calls.
  EXPECT_THAT(deepseek, HasSubstr("<tools>\n{\"type\":\"function\""));
  EXPECT_THAT(deepseek,
              HasSubstr("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>function_"
                        "name\n```json\n"
                        "{\"argument\":\"value\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"));
  EXPECT_THAT(deepseek, Not(HasSubstr("<tool_call>")));
}

TEST(tool_prompt, other_templates_get_a_system_message) {
  const auto m = model_with("chatml.jinja");
  json messages = conversation;
  messages.push_back({{"role", "tool"}, {"tool_call_id", "b"}, {"content", "22"}});
  messages.insert(messages.begin(), json({{"role", "system"}, {"content", "Be brief."}}));
  const std::string text = prompt_of(*m, {{"messages", messages}});
  EXPECT_THAT(text, HasSubstr("Be brief.\n\nYou can call functions"));
  EXPECT_THAT(text,
              HasSubstr("<tools>\n{\"type\":\"function\",\"function\":{\"name\":\"get_weather\""));
  EXPECT_THAT(text, HasSubstr("<tool_call>\n{\"name\": \"get_weather\", \"arguments\": "
                              "{\"unit\":\"c\",\"city\":\"Bonn\"}}\n</tool_call>"));
  EXPECT_THAT(text, HasSubstr("user\n<tool_response>\n21 "
                              "degrees\n</tool_response>\n<tool_response>\n22\n</tool_response>"));
  // A conversation that is over its tools shows what they did, but offers none.
  const std::string later = prompt_of(*m, {{"messages", messages}, {"tools", nullptr}});
  EXPECT_THAT(later, Not(HasSubstr("<tools>")));
  EXPECT_THAT(later, HasSubstr("<tool_call>"));
}

TEST(tool_prompt, parameters_keep_their_order) {
  const std::string raw =
      R"({"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"z":{"type":"null"},"a":{"type":"null"}}}}}]})";
  json body = json::parse(raw);
  keep_schema_order(body, raw);
  auto request = parse_chat(body, limits);
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->tools.tools[0].call.parameters,
            R"({"type":"object","properties":{"z":{"type":"null"},"a":{"type":"null"}}})");
}

}  // namespace
}  // namespace troupe::api
