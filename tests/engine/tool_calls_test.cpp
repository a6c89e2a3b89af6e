// Grammars of answers that call tools: what each notation accepts, what is free text and what is not, and which tokens the
// masks let through.
#include "engine/structured/tool_calls.hpp"
#include "engine/structured/tagged_parameters.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "engine/structured/automaton.hpp"
#include "engine/structured/vocabulary.hpp"

namespace troupe::engine::structured {
namespace {

const callable weather = {
    "get_weather",
    R"({"type":"object","properties":{"city":{"type":"string"},"unit":{"enum":["c","f"]}},"required":["city"]})",
    false};
const callable ping = {"ping", "", false};

tool_call_form form_of(call_syntax syntax, bool required, bool parallel = true) {
  return {syntax, required, parallel, {weather, ping}};
}

bool matches(const tool_call_form& form, std::string_view text) {
  auto g = compile(to_format(form));
  EXPECT_TRUE(g) << (g ? "" : to_string(g.error()));
  if (!g) return false;
  automaton a(std::move(*g));
  work_budget work;
  automaton::state s = a.start(work);
  for (const char c : text) s = a.next(s, static_cast<std::uint8_t>(c), work);
  return a.accepts(s);
}

void expect(const tool_call_form& form, const std::vector<std::string>& yes,
            const std::vector<std::string>& no) {
  SCOPED_TRACE(to_format(form).source);
  for (const auto& text : yes) EXPECT_TRUE(matches(form, text)) << text;
  for (const auto& text : no) EXPECT_FALSE(matches(form, text)) << text;
}

const std::string mark(1, special_mark);
const std::string args = R"({"city": "Zürich", "unit": "c"})";

TEST(tool_calls, hermes) {
  const std::string one =
      "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": " + args + "}\n</tool_call>";
  const std::string two = R"(<tool_call>{"name":"ping","arguments":{}}</tool_call>)";
  expect(form_of(call_syntax::hermes, true),
         {one, two, one + "\n" + two, one + "\n", mark + one, two + mark + two},
         {"", "Hello", "Well. " + one, one.substr(0, one.size() - 1),
          R"(<tool_call>{"name":"pong","arguments":{}}</tool_call>)",
          R"(<tool_call>{"name":"ping","arguments":{"a":1}}</tool_call>)",
          R"(<tool_call>{"name":"get_weather","arguments":{"unit":"c"}}</tool_call>)"});
  expect(form_of(call_syntax::hermes, true, false), {one, two}, {one + two, one + "\n" + two});
  expect(form_of(call_syntax::hermes, false),
         {"", "Hello", "a <tool> and <tool_cal", "\xff<|x|> \xe2", "Well.\n" + one, one + two,
          "<tool_<tool_call>" + two.substr(11)},
         {"<tool_call>", "Well. <tool_call> is a tag", one + " said I", "<tool_<tool_call>x"});
}

TEST(tool_calls, llama) {
  const std::string one = R"({"name": "get_weather", "parameters": )" + args + "}";
  const std::string typed = R"({"type": "function", "name": "ping", "parameters": {}})";
  expect(form_of(call_syntax::llama3_json, true), {one, typed, "<|python_tag|>" + one},
         {"", "x", one + "; " + typed, "{}"});
  expect(form_of(call_syntax::llama3_json, false),
         {"", "Hi", one, typed, mark + "<|python_tag|>" + typed, R"({"name": "Bob"})",
          R"({"name": "pin)", R"({"name": "pinguin", "parameters": 1})",
          "text " + one /* is text */, R"({"name"<|python_tag|>)" + one, "{"},
         {R"({"name": "ping")", R"({"name": "ping", "age": 3})", one + " more",
          "<|python_tag|>print(1)"});
}

TEST(tool_calls, mistral) {
  const std::string one = R"({"name": "get_weather", "arguments": )" + args + "}";
  const std::string two = R"({"name": "ping", "arguments": {}})";
  expect(form_of(call_syntax::mistral, true),
         {mark + "[TOOL_CALLS][" + one + "]", "[TOOL_CALLS] [" + one + ", " + two + "]"},
         {"[" + one + "]", "[TOOL_CALLS][]", "[TOOL_CALLS]" + one});
  expect(form_of(call_syntax::mistral, false), {"[TOOL] [", "Hm.[TOOL_CALLS][" + two + "]"},
         {"[TOOL_CALLS]", "[TOOL_CALLS][" + two});
  expect(form_of(call_syntax::mistral_args, true),
         {"[TOOL_CALLS]get_weather[ARGS]" + args,
          mark + "[TOOL_CALLS]ping" + mark + "[ARGS]{}" + mark + "[TOOL_CALLS]ping[ARGS]{}"},
         {"[TOOL_CALLS]pong[ARGS]{}", "ping[ARGS]{}"});
}

TEST(tool_calls, deepseek) {
  const std::string open = "<｜tool▁calls▁begin｜>", close = "<｜tool▁calls▁end｜>";
  const std::string begin = "<｜tool▁call▁begin｜>", sep = "<｜tool▁sep｜>",
                    end = "<｜tool▁call▁end｜>";
  const std::string one =
      begin + "function" + sep + "get_weather\n```json\n" + args + "\n```" + end;
  const std::string two =
      mark + begin + "function" + mark + sep + "ping\n```json\n{}\n```" + mark + end;
  expect(form_of(call_syntax::deepseek_v3, true),
         {open + one + close, open + one + "\n" + two + close, mark + open + two + mark + close},
         {one, open + one, open + close, "Hm" + open + one + close});
  expect(form_of(call_syntax::deepseek_v3, true, false), {open + one + close},
         {open + one + "\n" + two + close});
  expect(form_of(call_syntax::deepseek_v3, false), {"", "Hm. " + open + one + close, "<｜tool"},
         {open, open + "x", open + one + close + "x"});
  const std::string newer = begin + "get_weather" + sep + args + end;
  expect(form_of(call_syntax::deepseek_v31, true),
         {open + newer + close, open + newer + begin + "ping" + sep + "{}" + end + close},
         {open + one + close, open + begin + "pong" + sep + "{}" + end + close});
}

TEST(tool_calls, qwen_coder) {
  const auto call = [](const std::string& name, const std::string& parameters) {
    return "<tool_call>\n<function=" + name + ">\n" + parameters + "</function>\n</tool_call>";
  };
  const auto one = [](const std::string& key, const std::string& value) {
    return "<parameter=" + key + ">\n" + value + "\n</parameter>\n";
  };
  const std::string city = one("city", "Bad \"<x>\"\n</parameter"), ping_call = call("ping", "");
  expect(form_of(call_syntax::qwen3_coder, true),
         {call("get_weather", city), call("get_weather", one("city", "") + one("unit", "f")),
          ping_call, mark + ping_call + "\n" + ping_call},
         {"", call("get_weather", ""), call("get_weather", one("unit", "c")), call("pong", ""),
          call("get_weather", one("city", "x") + one("unit", "k")),
          call("get_weather", one("city", "x") + one("more", "x")), call("ping", one("a", "1")),
          call("get_weather", one("city", "x" + mark))});
  expect(form_of(call_syntax::qwen3_coder, false),
         {"", "a <tool_call", "Well.\n" + ping_call, ping_call + ping_call},
         {"<tool_call>", ping_call + "x",
          "<tool_call>{\"name\":\"ping\",\"arguments\":{}}</tool_call>"});
  expect(form_of(call_syntax::qwen3_coder, true, false), {ping_call}, {ping_call + ping_call});

  const auto with = [](const std::string& parameters, bool strict = false) {
    return tool_call_form{call_syntax::qwen3_coder, true, false, {{"f", parameters, strict}}};
  };
  const std::string typed =
      R"({"$defs":{"U":{"enum":["c","f"]},"P":{"type":"object","properties":{"x":{"$ref":"#/$defs/P"}}}},"type":"object","properties":{
          "n":{"type":"integer"},"u":{"$ref":"#/$defs/U"},"p":{"$ref":"#/$defs/P"},"s":{"type":["string","null"]},"m":{"enum":["a",1]}}})";
  expect(with(typed),
         {call("f", ""), call("f", one("n", "3") + one("u", "c") + one("p", R"({"x": {}})")),
          call("f", one("s", "null")), call("f", one("s", "a b")), call("f", one("m", "\"a\"")),
          call("f", one("m", "1"))},
         {call("f", one("n", "x")), call("f", one("u", "\"c\"")), call("f", one("p", "x")),
          call("f", one("m", "a"))});
  expect(with("{}"), {call("f", ""), call("f", one("any", "thing") + one("b", "{}"))},
         {call("f", one("a b", "x"))});
  const std::string bounded =
      R"({"type":"object","properties":{"s":{"type":"string","pattern":"a"}}})";
  EXPECT_TRUE(matches(with(bounded), call("f", one("s", "b"))));
  EXPECT_EQ(compile(to_format(with(bounded, true))).error().code, ec::unsupported);
  for (const char* bad :
       {R"({"type":"string"})", "[]", "false", R"({"properties":1})",
        R"({"properties":{"a":{"type":"nope"}}})", R"({"properties":{"a":{"$ref":"#/~"}}})"})
    EXPECT_EQ(compile(to_format(with(bad))).error().code, ec::invalid_argument) << bad;
  EXPECT_TRUE(compile(to_format(with(
      R"({"$defs":{"A":{"anyOf":[{"$ref":"#/$defs/A"},{"type":"null"}]}},"properties":{"a":{"type":"integer"}}})"))));
}

// As programs make schemas of their types, between tags.
TEST(tool_calls, qwen_coder_follows_schemas_made_by_programs) {
  const auto call = [](const std::string& parameters) {
    return "<tool_call>\n<function=f>\n" + parameters + "</function>\n</tool_call>";
  };
  const auto one = [](const std::string& key, const std::string& value) {
    return "<parameter=" + key + ">\n" + value + "\n</parameter>\n";
  };
  const auto with = [](const std::string& parameters, bool strict) {
    return tool_call_form{call_syntax::qwen3_coder, true, false, {{"f", parameters, strict}}};
  };
  const auto refusal = [&](const std::string& parameters) {
    const auto made = compile(to_format(with(parameters, true)));
    return made ? ec::none : made.error().code;
  };
  const std::string unit =
      R"({"properties":{"u":{"anyOf":[{"$ref":"#/$defs/U"},{"type":"null"}],"default":null},"d":{"type":"string","format":"date"},
          "t":{"anyOf":[{"type":"null"},{"type":"string","format":"time"}]},"c":{"oneOf":[{"type":"null"},{"const":"k"}]}},
          "$defs":{"U":{"type":"string","enum":["c","f"]}}})";
  for (const bool strict : {false, true})
    expect(with(unit, strict),
           {call(""), call(one("u", "c")), call(one("u", "null")), call(one("d", "2026-11-26")),
            call(one("t", "null")), call(one("t", "05:27:00Z")), call(one("c", "k"))},
           {call(one("u", "k")), call(one("u", "\"c\"")), call(one("d", "today")),
            call(one("d", "null")), call(one("t", "soon")), call(one("c", "x"))});
  EXPECT_EQ(parameter_forms(unit).at("u"), parameter_form::text_or_null);
  EXPECT_EQ(
      refusal(
          R"({"properties":{"s":{"anyOf":[{"type":"string","pattern":"a"},{"type":"null"}]}}})"),
      ec::unsupported);

  const std::string object =
      R"({"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]})";
  for (const std::string& root :
       {R"({"$ref":"#/$defs/A","$defs":{"A":)" + object + "}}",
        R"({"allOf":[{"$ref":"#/$defs/A"}],"$defs":{"A":)" + object + "}}",
        R"({"description":"d","anyOf":[)" + object + "]}",
        R"({"type":"object","properties":{"s":{"type":"string"}},"allOf":[)" + object + "]}"}) {
    for (const bool strict : {false, true})
      expect(with(root, strict), {call(one("n", "3"))},
             {call(""), call(one("n", "x")), call(one("m", "3"))});
    EXPECT_EQ(parameter_forms(root).at("n"), parameter_form::json) << root;
  }
  expect(with(R"({"type":"object","additionalProperties":false})", true), {call("")},
         {call(one("a", "b"))});
  for (const char* beyond :
       {R"({"anyOf":[{"properties":{"a":{"type":"null"}}},{"properties":{"b":{"type":"null"}}}]})",
        R"({"$ref":"#"})", R"({"required":["a"]})", R"({"minProperties":1})",
        R"({"additionalProperties":{"type":"integer"}})"}) {
    EXPECT_EQ(refusal(beyond), ec::unsupported) << beyond;
    EXPECT_TRUE(compile(to_format(with(beyond, false)))) << beyond;
  }
}

TEST(tool_calls, or_an_answer_of_a_form) {
  const std::string call = R"(<tool_call>{"name":"ping","arguments":{}}</tool_call>)";
  auto form = form_of(call_syntax::hermes, false);
  form.otherwise = {format_kind::json_schema,
                    R"({"type":"object","properties":{"a":{"type":"string"}},"required":["a"]})"};
  const std::string of_form = R"({"a": "<tool_call>"})";
  expect(form, {call, call + call, "\n" + call, mark + call, of_form},
         {"", "Hello", "{}", of_form + call, call + of_form, "Well. " + call});
  form.otherwise = {format_kind::regex, "yes|no"};
  expect(form, {"yes", "no", call}, {"maybe", "yes" + call});
  // Where calls may begin without a mark they begin with it here.
  auto llama = form_of(call_syntax::llama3_json, false);
  llama.otherwise = {format_kind::json_object, ""};
  const std::string like = R"({"name": "ping", "parameters": {}})";
  expect(llama, {like, R"({"name": "ping"})", "<|python_tag|>" + like, "{}"}, {"Hi"});
  form.otherwise = {format_kind::json_schema, "{\"type\": \"nope\"}"};
  EXPECT_EQ(compile(to_format(form)).error().code, ec::invalid_argument);
  for (const char* bad :
       {R"({"kind":"text","source":""})", R"({"kind":"tool_calls","source":"{}"})",
        R"({"kind":"odd","source":""})", "1", R"({"kind":"regex"})"}) {
    const std::string whole =
        R"({"syntax":"hermes","tools":[{"name":"a","parameters":""}],"otherwise":)" +
        std::string(bad) + "}";
    EXPECT_EQ(compile({format_kind::tool_calls, whole}).error().code, ec::invalid_argument) << bad;
  }
}

TEST(tool_calls, many_tools_with_long_names_fit) {
  tool_call_form form{call_syntax::llama3_json, false, true, {}};
  for (int i = 0; i < 128; ++i) {
    std::string name = std::to_string(i * 7919);
    name.resize(64, 'x');
    form.tools.push_back({name, weather.parameters, false});
  }
  EXPECT_TRUE(compile(to_format(form)));
}

TEST(tool_calls, schemas_are_kept_as_far_as_they_are_strict) {
  const auto with = [](const std::string& parameters, bool strict) {
    return tool_call_form{call_syntax::hermes, true, false, {{"f", parameters, strict}}};
  };
  const auto call = [](const std::string& arguments) {
    return R"(<tool_call>{"name":"f","arguments":)" + arguments + "}</tool_call>";
  };
  const std::string odd =
      R"({"type":"object","properties":{"n":{"type":"number","minimum":0.5},"l":{"type":"array","items":{"type":"integer","multipleOf":3},"uniqueItems":true,"maxItems":2},
          "s":{"type":"string","pattern":"(?=a)b"},"i":{"type":"integer","minimum":-9007199254740991,"maximum":9007199254740991}},"minProperties":1})";
  const auto refused = compile(to_format(with(odd, true)));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ec::unsupported);
  EXPECT_THAT(refused.error().detail, ::testing::HasSubstr("tool f"));
  expect(with(odd, false),
         {call("{}"), call(R"({"n":0.1,"l":[1,2],"s":"x"})"), call(R"({"i":-12})")},
         {call(R"({"n":"x"})"), call(R"({"l":[1,2,3]})"), call(R"({"l":["a"]})"),
          call(R"({"s":1})"), call(R"({"i":1.5})"), call("[]")});
  expect(with(R"({"type":"object","properties":{}})", false), {call("{}")}, {call(R"({"a":1})")});
  expect(with("{}", false), {call(R"({"a":[1]})")}, {call("1")});
  for (const char* bad :
       {R"({"type":"string"})", "[]", "3", "{", R"({"properties":{"a":{"type":"nope"}}})", "false"})
    EXPECT_EQ(compile(to_format(with(bad, false))).error().code, ec::invalid_argument) << bad;
}

// Each would do by itself.
TEST(tool_calls, what_many_schemas_unfold_to_is_bounded) {
  tool_call_form form{call_syntax::hermes, true, true, {}};
  std::string definitions;
  for (int i = 0; i < 11; ++i) {
    const std::string next = R"({"$ref":"#/$defs/a)" + std::to_string(i + 1) + "\"}";
    definitions += "\"a" + std::to_string(i) + R"(":{"anyOf":[)" + next + "," + next + "]},";
  }
  const std::string schema = R"({"type":"object","anyOf":[{"$ref":"#/$defs/a0"}],"$defs":{)" +
                             definitions + R"("a11":{"required":[]}}})";
  for (int i = 0; i < 32; ++i) form.tools.push_back({"f" + std::to_string(i), schema, true});
  const auto refused = compile(to_format(form));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ec::invalid_argument);
  EXPECT_THAT(refused.error().detail, ::testing::HasSubstr("more than 50000 schemas"));
}

TEST(tool_calls, a_malformed_form_is_refused) {
  for (const char* bad :
       {"", "[]", "{}", R"({"syntax":"hermes","tools":[]})",
        R"({"syntax":"odd","tools":[{"name":"a","parameters":""}]})",
        R"({"syntax":"hermes","tools":[{"name":"a b","parameters":""}]})",
        R"({"syntax":"hermes","tools":[{"name":"a"}]})", R"({"syntax":"hermes","tools":[1]})"})
    EXPECT_EQ(compile({format_kind::tool_calls, bad}).error().code, ec::invalid_argument) << bad;
}

// Bytes, special tokens as in real vocabularies, and the end.
class toy : public model::tokenizer {
 public:
  std::vector<token_id> encode(std::span<const model::text_segment>, bool) const override {
    return {};
  }
  std::string token_bytes(token_id id, bool special) const override {
    if (id < 256) return std::string(1, static_cast<char>(id));
    return special ? texts_[id - 256] : "";
  }
  std::size_t vocab_size() const override { return 260; }
  bool is_special(token_id id) const override { return id >= 256; }
  std::optional<token_id> bos() const override { return {}; }
  const std::vector<token_id>& end_of_generation() const override { return ends_; }
  std::optional<token_id> find(std::string_view) const override { return {}; }
  std::string description() const override { return "toy"; }

 private:
  const std::vector<token_id> ends_{256};
  const std::vector<std::string> texts_{"</s>", "[TOOL_CALLS]", "[INST]", "[ARGS]"};
};

TEST(tool_calls, special_tokens_come_only_where_they_are_asked_for) {
  const toy t;
  const vocabulary words(300, t, t.end_of_generation());
  const auto mask_of = [&](const answer_format& f) {
    automaton a(*compile(f));
    work_budget work;
    return words.allowed(a, a.start(work), work);
  };
  const auto required = mask_of(to_format(form_of(call_syntax::mistral, true)));
  EXPECT_TRUE(allows(required, 257));
  EXPECT_TRUE(allows(required, '['));
  for (const token_id no : {256u, 258u, 259u, 255u, 65u, 280u})
    EXPECT_FALSE(allows(required, no)) << no;
  const auto free = mask_of(to_format(form_of(call_syntax::mistral, false)));
  for (const token_id yes : {256u, 257u, 258u, 65u, 0xE2u}) EXPECT_TRUE(allows(free, yes)) << yes;
  for (const token_id no : {255u, 280u}) EXPECT_FALSE(allows(free, no)) << no;
  const auto any = mask_of({format_kind::regex, "[^a]*"});
  EXPECT_TRUE(allows(any, 256));
  for (const token_id no : {257u, 258u, 255u}) EXPECT_FALSE(allows(any, no)) << no;

  // In the middle of a call only its own marks.
  automaton a(*compile(to_format(form_of(call_syntax::mistral_args, false))));
  work_budget work;
  auto s = words.next(a, a.start(work), 257, work);
  for (const char c : std::string("ping"))
    s = words.next(a, s, static_cast<unsigned char>(c), work);
  const auto inside = words.allowed(a, s, work);
  EXPECT_TRUE(allows(inside, 259));
  EXPECT_FALSE(allows(inside, 257));
  EXPECT_FALSE(allows(inside, 256));
}

TEST(tool_calls, whatever_is_drawn_parses) {
  const toy t;
  const vocabulary words(260, t, t.end_of_generation());
  int calls = 0;
  for (std::uint32_t seed = 1; seed <= 60; ++seed) {
    automaton a(*compile(to_format(form_of(call_syntax::hermes, true, false))));
    std::mt19937 random(seed);
    std::string text;
    work_budget work;
    auto s = a.start(work);
    while (!a.only_ends(s) && text.size() < 600) {
      work.grant_token();
      const auto mask = words.allowed(a, s, work);
      std::vector<token_id> may;
      for (token_id id = 0; id < 256; ++id)
        if (allows(mask, id) && (id < 0x80 || random() % 8 == 0)) may.push_back(id);
      // Ends of strings and numbers soon.
      if (allows(mask, '"') && random() % 3 == 0) may = {'"'};
      if (may.empty())
        for (token_id id = 0x80; id < 256; ++id)
          if (allows(mask, id)) may.push_back(id);
      ASSERT_FALSE(may.empty()) << text;
      const token_id one = may[random() % may.size()];
      text += static_cast<char>(one);
      s = words.next(a, s, one, work);
    }
    if (!a.only_ends(s)) continue;
    ++calls;
    const auto first = text.find('{'), last = text.rfind('}');
    const auto call = nlohmann::json::parse(text.substr(first, last - first + 1), nullptr, false);
    ASSERT_TRUE(call.is_object()) << text;
    if (call["name"] == "get_weather")
      EXPECT_TRUE(call["arguments"]["city"].is_string()) << text;
    else
      EXPECT_EQ(call["arguments"], nlohmann::json::object());
  }
  EXPECT_GT(calls, 20);
}

}  // namespace
}  // namespace troupe::engine::structured
