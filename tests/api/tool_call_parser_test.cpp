// The reader of calls: every notation, however the text is cut.
#include <gtest/gtest.h>

#include "api/tool_call_parser.hpp"
#include "fakes.hpp"

namespace troupe::api {
namespace {

using engine::structured::call_syntax;
using namespace testing;
using nlohmann::json;

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

}  // namespace
}  // namespace troupe::api
