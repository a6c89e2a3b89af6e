// Tools from the request's fields to the answer's calls: prompts, the reader of calls, whole answers and streams.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "api/answer_format_fields.hpp"
#include "api/tool_call_parser.hpp"
#include "api/tool_prompt.hpp"
#include "fakes.hpp"

namespace troupe::api {
namespace {

using namespace testing;
using engine::structured::call_syntax;
using nlohmann::json;
using nlohmann::ordered_json;
using ::testing::HasSubstr;
using ::testing::Not;

const json weather = json::parse(
    R"({"type":"function","function":{"name":"get_weather","description":"Weather of a city","parameters":
        {"type":"object","properties":{"city":{"type":"string"},"unit":{"enum":["c","f"]}},"required":["city"]}}})");
const json ping = json::parse(R"({"type":"function","function":{"name":"ping"}})");
const json chat = {{"model", "toy"},
                   {"messages", {{{"role", "user"}, {"content", "Hello"}}}},
                   {"tools", {weather, ping}}};

json plus(json base, const json& more) {
  if (!more.is_null()) base.update(more);
  return base;
}

// -- the reader of calls ---------------------------------------------------------------------------------------------------
std::string shown(const std::vector<tool_event>& events) {
  std::string out;
  tool_event::kind last = tool_event::kind::call;
  for (const tool_event& e : events) {
    if (e.is == tool_event::kind::call)
      out += "\n@" + e.what + " ";
    else if (e.is == tool_event::kind::text && last != e.is)
      out += "'" + e.what;
    else
      out += e.what;
    last = e.is;
  }
  return out;
}

const std::vector<engine::structured::callable> known = {
    {"get_weather",
     R"({"type":"object","properties":{"city":{"type":"string"},"note":{"anyOf":[{"type":"string"},{"type":"null"}]},"days":{"type":"integer"},"l":{"type":"array"}}})",
     false},
    {"ping", "", false}};

enum class reading { free, forced, apart };

std::string read(call_syntax syntax, reading how, const std::string& text, std::size_t piece) {
  tool_call_parser parser({syntax, known, how == reading::forced, false, how == reading::apart});
  std::vector<tool_event> all;
  const auto take = [&](std::vector<tool_event> events) {
    for (auto& e : events) all.push_back(std::move(e));
  };
  for (std::size_t i = 0; i < text.size(); i += piece) take(parser.push(text.substr(i, piece)));
  take(parser.flush());
  return shown(all);
}

void expect_read(call_syntax syntax, reading how, const std::string& text,
                 const std::string& expected) {
  for (std::size_t piece = 1; piece <= text.size() + 1; ++piece)
    ASSERT_EQ(read(syntax, how, text, piece), expected) << text << " in pieces of " << piece;
}
void expect_read(call_syntax syntax, bool forced, const std::string& text,
                 const std::string& expected) {
  expect_read(syntax, forced ? reading::forced : reading::free, text, expected);
}

TEST(tool_call_parser, reads_every_notation_however_it_is_cut) {
  const std::string args = R"({"city": "a}\"]<tool_call>{", "l": [{}, [1]]})";
  const auto hermes = [](const std::string& name, const std::string& a) {
    return "<tool_call>\n{\"name\": \"" + name + "\", \"arguments\": " + a + "}\n</tool_call>";
  };
  const std::string one = "\n@get_weather " + args, two = "\n@ping {}";
  expect_read(call_syntax::hermes, false, "Let me see.\n\n" + hermes("get_weather", args),
              "'Let me see." + one);
  expect_read(call_syntax::hermes, true,
              hermes("get_weather", args) + "\n" + hermes("ping", "{}") + "\n", one + two);
  expect_read(call_syntax::hermes, false, " a < b <tool_ \n", "' a < b <tool_ \n");
  expect_read(call_syntax::hermes, false, "", "");
  expect_read(call_syntax::llama3_json, false,
              "{\"name\": \"get_weather\", \"parameters\": " + args + "}", one);
  expect_read(call_syntax::llama3_json, false,
              "Hm <|python_tag|>{\"name\":\"ping\",\"parameters\":{}}", "'Hm" + two);
  expect_read(call_syntax::llama3_json, false, "{\"name\": \"Bob\"}", "'{\"name\": \"Bob\"}");
  expect_read(call_syntax::llama3_json, true,
              "{\"type\": \"function\", \"name\": \"ping\", \"parameters\": {}}", two);
  expect_read(call_syntax::mistral, false,
              "[TOOL_CALLS] [{\"name\": \"get_weather\", \"arguments\": " + args +
                  "}, {\"name\": \"ping\", \"arguments\": {}}]",
              one + two);
  expect_read(call_syntax::mistral_args, true,
              "[TOOL_CALLS]get_weather[ARGS]" + args + "[TOOL_CALLS]ping[ARGS]{}", one + two);
}

TEST(tool_call_parser, gives_what_was_there_of_a_call_that_is_cut) {
  const std::string begun = "<tool_call>{\"name\": \"ping\", \"arguments\": ";
  expect_read(call_syntax::hermes, false, "Hm." + begun.substr(0, 20), "'Hm.");
  expect_read(call_syntax::hermes, false, begun + "{\"a\": \"b", "\n@ping {\"a\": \"b");
  for (const char* scalar : {"12", "true", "\"x}\"", "null"})
    expect_read(call_syntax::hermes, true, begun + scalar + "}</tool_call>",
                "\n@ping " + std::string(scalar));
  // What no grammar gives must not do harm.
  for (const char* odd : {"}}}}", "]", ",\"arguments\":\"arguments\":", "\"arguments\":"})
    read(call_syntax::hermes, reading::forced, begun + odd, 1);
  read(call_syntax::mistral_args, reading::forced, "[ARGS][ARGS]{}[ARGS]", 1);
}

TEST(tool_call_parser, reads_deepseeks_marks) {
  const std::string args = R"({"city": "a}\"]```{", "l": [{}, [1]]})";
  const std::string open = "<｜tool▁calls▁begin｜>", close = "<｜tool▁calls▁end｜>";
  const auto v3 = [](const std::string& name, const std::string& a) {
    return "<｜tool▁call▁begin｜>function<｜tool▁sep｜>" + name + "\n```json\n" + a +
           "\n```<｜tool▁call▁end｜>";
  };
  const auto v31 = [](const std::string& name, const std::string& a) {
    return "<｜tool▁call▁begin｜>" + name + "<｜tool▁sep｜>" + a + "<｜tool▁call▁end｜>";
  };
  const std::string one = "\n@get_weather " + args, two = "\n@ping {}";
  expect_read(call_syntax::deepseek_v3, false,
              "Hm. " + open + v3("get_weather", args) + "\n" + v3("ping", "{}") + close,
              "'Hm." + one + two);
  expect_read(call_syntax::deepseek_v3, true, open + v3("ping", "{}") + close, two);
  expect_read(call_syntax::deepseek_v3, false, "a <｜tool▁calls", "'a <｜tool▁calls");
  expect_read(call_syntax::deepseek_v31, false,
              "Hm. " + open + v31("get_weather", args) + v31("ping", "{}") + close,
              "'Hm." + one + two);
  expect_read(call_syntax::deepseek_v31, true, open + v31("ping", "{}") + close, two);
}

TEST(tool_call_parser, makes_json_of_parameters_between_tags) {
  const auto call = [](const std::string& name, const std::string& parameters) {
    return "<tool_call>\n<function=" + name + ">\n" + parameters + "</function>\n</tool_call>";
  };
  const auto one = [](const std::string& key, const std::string& value) {
    return "<parameter=" + key + ">\n" + value + "\n</parameter>\n";
  };
  const auto given = [](const std::string& object) { return "\n@get_weather " + object; };
  expect_read(
      call_syntax::qwen3_coder, false,
      "I look.\n" +
          call("get_weather", one("city", "Bad \"\\Zür\nich</p") + one("days", "3") +
                                  one("l", "[1, {\"a\": \"</function>\"}]")) +
          "\n" + call("ping", ""),
      "'I look." +
          given(R"({"city": "Bad \"\\Zür\nich</p", "days": 3, "l": [1, {"a": "</function>"}]})") +
          "\n@ping {}");
  expect_read(call_syntax::qwen3_coder, true, call("get_weather", one("note", "null")),
              given(R"({"note": null})"));
  expect_read(call_syntax::qwen3_coder, true,
              call("get_weather", one("note", "nullable") + one("city", "")),
              given(R"({"note": "nullable", "city": ""})"));
  expect_read(call_syntax::qwen3_coder, true,
              call("get_weather", one("note", "nul") + one("city", "null")),
              given(R"({"note": "nul", "city": "null"})"));
  expect_read(call_syntax::qwen3_coder, true, call("ping", one("x", "1\t2")),
              "\n@ping " + std::string(R"({"x": "1\t2"})"));
  expect_read(call_syntax::qwen3_coder, true,
              "<tool_call>\n<function=get_weather>\n<parameter=city>\nBon",
              given(R"({"city": "Bon)"));
}

TEST(tool_call_parser, an_answer_of_a_form_holds_no_calls) {
  const std::string call = "<tool_call>{\"name\": \"ping\", \"arguments\": {}}</tool_call>";
  expect_read(call_syntax::hermes, reading::apart, call + "\n" + call, "\n@ping {}\n@ping {}");
  expect_read(call_syntax::hermes, reading::apart, "\n" + call, "\n@ping {}");
  const std::string form = "{\"a\": \"" + call + "\"} ";
  expect_read(call_syntax::hermes, reading::apart, form, "'" + form);
  expect_read(call_syntax::hermes, reading::apart, " <tool", "' <tool");
  const std::string like = R"({"name": "ping", "parameters": {}})";
  expect_read(call_syntax::llama3_json, reading::apart, like, "'" + like);
  expect_read(call_syntax::llama3_json, reading::apart, "<|python_tag|>" + like, "\n@ping {}");
}

// -- fields ----------------------------------------------------------------------------------------------------------------
const request_limits limits = [] {
  request_limits l;
  l.vocab_size = 1000;
  return l;
}();

api_result<chat_request> parsed(const json& more) {
  return parse_chat(plus(chat, more), limits);
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

json allowed(const json& mode, const json& tools) {
  return {{"type", "allowed_tools"}, {"allowed_tools", {{"mode", mode}, {"tools", tools}}}};
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
      auto x = d.post(path, plus(chat, more));
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

// -- prompts ---------------------------------------------------------------------------------------------------------------
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
  json body = plus(chat, more);
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

// -- answers ---------------------------------------------------------------------------------------------------------------
script says(const std::string& text, std::size_t per_event = 1) {
  script s;
  s.tokens = tokens_of(text);
  s.per_event = per_event;
  return s;
}

const std::string call_text =
    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Bonn\"}}\n</tool_call>";

TEST(tool_answer, a_whole_answer_holds_its_calls) {
  door d([](const auto&) { return says("I look.\n" + call_text + call_text); }, {},
         toy_model(4096));
  auto x = d.post("/v1/chat/completions", chat);
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
  auto c = json_of(*d.post("/v1/chat/completions", plus(chat, in_json)))["choices"][0];
  EXPECT_EQ(c["message"]["content"], form);
  EXPECT_FALSE(c["message"].contains("tool_calls"));
  EXPECT_EQ(c["finish_reason"], "stop");
  const auto otherwise = [&](std::size_t request) {
    return json::parse(d.service.submitted().at(request).sampling.format.source)
        .value("otherwise", json());
  };
  EXPECT_EQ(otherwise(0)["kind"], "json_object");

  says_this = call_text;
  c = json_of(*d.post("/v1/chat/completions", plus(chat, in_json)))["choices"][0];
  EXPECT_EQ(c["finish_reason"], "tool_calls");
  EXPECT_EQ(c["message"]["tool_calls"][0]["function"]["name"], "get_weather");

  const auto with = [&](const json& choice) {
    return d.post("/v1/chat/completions", plus(plus(chat, in_json), {{"tool_choice", choice}}));
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
  EXPECT_EQ(d.post("/v1/chat/completions", plus(chat, in_json))->response.status, 200);
  EXPECT_EQ(forms("tool_calls", "kept"), 1);
  EXPECT_EQ(forms("json_object", "kept"), 0);
  EXPECT_EQ(count("troupe_answer_form_compile_seconds_count"), 1);

  // Errors name the field that is to blame, and count for its form.
  const json bad = {{"response_format", {{"type", "json_schema"}, {"schema", {{"not", true}}}}}};
  const auto refused = d.post("/v1/chat/completions", plus(chat, bad));
  EXPECT_EQ(refused->response.status, 400);
  EXPECT_EQ(json_of(*refused)["error"]["param"], "response_format");
  EXPECT_EQ(forms("json_schema", "refused"), 1);
  EXPECT_EQ(forms("tool_calls", "refused"), 0);
  EXPECT_EQ(count("troupe_answer_form_compile_seconds_count"), 2);
}

TEST(tool_answer, text_alone_is_as_ever) {
  door d([](const auto&) { return says("Just text \n"); }, {}, toy_model(4096));
  const auto c = json_of(*d.post("/v1/chat/completions", chat))["choices"][0];
  EXPECT_EQ(c["message"]["content"], "Just text \n");
  EXPECT_FALSE(c["message"].contains("tool_calls"));
  EXPECT_EQ(c["finish_reason"], "stop");
}

TEST(tool_answer, a_named_call_ends_with_stop) {
  door d([](const auto&) { return says(call_text); }, {}, toy_model(4096));
  const json named = {{"type", "function"}, {"function", {{"name", "get_weather"}}}};
  const auto c =
      json_of(*d.post("/v1/chat/completions", plus(chat, {{"tool_choice", named}})))["choices"][0];
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
        *d.post("/v1/chat/completions", plus(chat, {{"tool_choice", choice}})))["choices"][0];
    EXPECT_EQ(c["finish_reason"], "tool_calls") << "not as with a named one";
    const auto request = d.service.submitted().back();
    const auto form = json::parse(request.sampling.format.source);
    EXPECT_EQ(form["tools"].size(), 1u);
    EXPECT_EQ(form["tools"][0]["name"], "get_weather");
    EXPECT_EQ(form["required"].get<bool>(), mode == std::string("required"));
    EXPECT_TRUE(form["parallel"].get<bool>());
  }
  d.post("/v1/chat/completions", chat);
  EXPECT_EQ(d.service.submitted()[0].prompt, d.service.submitted()[2].prompt)
      << "what is cached of it stays of use";
}

TEST(tool_answer, a_call_that_is_cut_tells_its_length) {
  script cut = says(call_text);
  cut.reason = engine::finish_reason::length;
  door d([cut](const auto&) { return cut; }, {}, toy_model(4096));
  const auto c =
      json_of(*d.post("/v1/chat/completions", plus(chat, {{"max_tokens", 60}})))["choices"][0];
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
                    plus(chat, {{"stream", true}, {"logprobs", true}, {"top_logprobs", 0}}));
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
    auto x = d.post("/v1/chat/completions", plus(chat, more));
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
  EXPECT_EQ(refusing.post("/v1/chat/completions", chat)->response.status, 400);
  EXPECT_EQ(
      refusing.post("/v1/chat/completions", plus(chat, {{"tool_choice", "none"}}))->response.status,
      200);
}

}  // namespace
}  // namespace troupe::api
