// Grammars of answers: what they accept, what they refuse, and that whatever is drawn by their masks is of the form.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "engine/structured/answer_format.hpp"
#include "engine/structured/automaton.hpp"
#include "engine/structured/vocabulary.hpp"

namespace troupe::engine::structured {
namespace {

std::unique_ptr<automaton> make(format_kind kind, const std::string& source) {
  auto g = compile({kind, source});
  EXPECT_TRUE(g) << source << ": " << (g ? "" : to_string(g.error()));
  return g ? std::make_unique<automaton>(std::move(*g)) : nullptr;
}

constexpr std::size_t plenty = std::size_t{1} << 40;  // of work

automaton::state follow(automaton& a, std::string_view text, work_budget& work) {
  automaton::state s = a.start(work);
  for (const char c : text) s = a.next(s, static_cast<std::uint8_t>(c), work);
  return s;
}

bool matches(automaton& a, std::string_view text) {
  work_budget work;
  return a.accepts(follow(a, text, work));
}

void expect(format_kind kind, const std::string& source, const std::vector<std::string>& yes,
            const std::vector<std::string>& no) {
  SCOPED_TRACE(source);
  const auto a = make(kind, source);
  ASSERT_NE(a, nullptr);
  for (const auto& text : yes) EXPECT_TRUE(matches(*a, text)) << text;
  for (const auto& text : no) EXPECT_FALSE(matches(*a, text)) << text;
}

ec refusal(format_kind kind, const std::string& source) {
  const auto g = compile({kind, source});
  if (g) return ec::none;
  EXPECT_FALSE(g.error().detail.empty());
  return g.error().code;
}

TEST(structured, regular_expressions) {
  const auto regex = format_kind::regex;
  expect(regex, "(a|b)*c+", {"c", "abbac", "ccc"}, {"", "ab", "ca"});
  expect(regex, R"(\d{3}-\d{2,}x?)", {"123-45", "123-4567x"}, {"12-34", "123-4", "123-45xx"});
  expect(regex, "[^a-c\\n]{2}", {"de", "é✓"}, {"da", "d\n", "d"});
  expect(regex, "^ab$|^cd", {"ab", "cd"}, {"abcd", "a"});
  expect(regex, "(a*)*b", {"b", "aaab"}, {"a"});
  expect(regex, "(?:x{0,2}y){2}", {"yy", "xyxxy"}, {"y", "xxxyy"});
  expect(regex, "[\\u0391-\\u03a9]+", {"ΑΒΩ"}, {"α", "A"});
  expect(regex, ".", {"a", "é", "✓", "😀"}, {"", "ab", "\n", "\xff", "\xed\xa0\x80"});
  expect(regex, "[\\w-]+@[\\w.]+", {"a-b@c.d"}, {"a@", "@b"});
}

TEST(structured, what_a_regular_expression_cannot_be) {
  const auto regex = format_kind::regex;
  for (const char* bad : {"(", "a)", "[a", "a{2", "a{3,2}", "*a", "a**", "\\", "[b-a]", "\\xg0",
                          "a{1,1000000000}", "[^\\s\\S]", "\xff"})
    EXPECT_EQ(refusal(regex, bad), ec::invalid_argument) << bad;
  for (const char* bad : {"(?=a)b", "(?<!a)b", "(a)\\1", "a++", "\\bword", "a(^b)", "[[:alpha:]]"})
    EXPECT_EQ(refusal(regex, bad), ec::unsupported) << bad;
  EXPECT_EQ(refusal(regex, std::string(60'000, '(')), ec::invalid_argument);
  EXPECT_EQ(refusal(regex, std::string(max_source_bytes + 1, 'a')), ec::invalid_argument);
}

TEST(structured, choices) {
  expect(format_kind::choice, R"(["yes","no","not sure"])", {"yes", "no", "not sure"},
         {"", "not", "yesno"});
  EXPECT_EQ(refusal(format_kind::choice, "[]"), ec::invalid_argument);
  EXPECT_EQ(refusal(format_kind::choice, "[1]"), ec::invalid_argument);
  EXPECT_EQ(refusal(format_kind::choice, "{"), ec::invalid_argument);
}

TEST(structured, gbnf) {
  const auto gbnf = format_kind::grammar;
  expect(gbnf, "# sums\nroot ::= term (\"+\" term)*\nterm ::= [0-9]+ | \"(\" root \")\" # nested\n",
         {"1", "1+22", "(1+(2))+3"}, {"", "+", "1+", "(1"});
  expect(gbnf, "root ::= \"\\x41\" [^\\n]{2,3} |\n  \"\\u00e9\"", {"Abc", "Abcd", "é"},
         {"A", "Ab\n", "Abcde"});
  expect(gbnf, "root ::= (\n \"a\" |\n \"b\"\n)? \"c\"", {"c", "ac", "bc"}, {"ab"});
  for (const char* bad : {"", "x ::= \"a\"", "root ::= y", "root = \"a\"", "root ::= \"a",
                          "root ::= [a", "root ::= (\"a\"", "root ::= \"a\"\nroot ::= \"b\"",
                          "root ::= \"\\q\"", "root ::= root \"a\" | \"a\"",
                          "root ::= a\na ::= b \"x\"\nb ::= a | \"y\"", "root ::= \"a\" )"})
    EXPECT_EQ(refusal(gbnf, bad), ec::invalid_argument) << bad;
  expect(gbnf, "root ::= a | \"z\"\na ::= root", {"z"}, {"a"});
  expect(gbnf, "root ::= \"a\" x | \"b\"\nx ::= \"y\" x", {"b"},
         {"a", "ay"});  // reaches itself, but never grows
}

TEST(structured, json_schemas) {
  const auto schema = format_kind::json_schema;
  expect(
      schema,
      R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name"]})",
      {R"({"name":"x"})", R"({"name": "a\"b\u00e9", "age": -3})", "{\n  \"name\": \"x\"\n}"},
      {"{}", R"({"age":1})", R"({"name":"x","age":1.5})", R"({"name":"x","more":1})",
       R"({"name":"x",})", R"({"age":1,"name":"x"})"});
  expect(
      schema,
      R"({"type":"object","properties":{"a":{"const":1}},"additionalProperties":{"type":"boolean"}})",
      {"{}", R"({"a":1})", R"({"a":1,"b":true})", R"({"ab":false})", R"({"b":true,"c":false})"},
      {R"({"a":true})", R"({"b":1})", R"({"b":true,"a":1})"});
  expect(schema, R"({"type":"array","items":{"enum":["x",2,null]},"minItems":1,"maxItems":3})",
         {R"(["x"])", R"([2, null,"x"])"}, {"[]", R"(["y"])", R"(["x","x","x","x"])"});
  expect(schema, R"({"prefixItems":[{"type":"boolean"},{"type":"null"}],"minItems":1})",
         {"[true]", "[false, null]"}, {"[]", "[null]", "[true,null,1]"});
  expect(
      schema,
      R"({"prefixItems":[{"type":"boolean"}],"items":{"type":"null"},"maxItems":3,"type":"array"})",
      {"[]", "[true]", "[true,null,null]"}, {"[null]", "[true,null,null,null]"});
  expect(schema,
         R"({"anyOf":[{"type":"integer","minimum":5,"exclusiveMaximum":117},{"type":"null"}]})",
         {"5", "99", "100", "116", "null"}, {"4", "117", "05", "-6", "1000"});
  expect(schema, R"({"type":"integer","minimum":-12,"maximum":3})", {"-12", "-9", "-1", "0", "3"},
         {"-13", "4", "-0", "12"});
  expect(schema, R"({"type":"string","minLength":2,"maxLength":3})", {R"("ab")", R"("a\n✓")"},
         {R"("a")", R"("abcd")", "ab"});
  expect(schema, R"({"type":"string","pattern":"^[a-z]+\\.\"$"})", {R"("ab.\"")"},
         {R"("ab.")", R"("ab.\"x")"});
  expect(schema, R"({"type":"string","pattern":"b"})", {R"("abc")", R"("b")"}, {R"("ac")"});
  expect(schema, R"({"type":"string","format":"date"})", {R"("2026-11-25")"},
         {R"("2026-13-25")", R"("26-1-1")"});
  expect(schema, R"({"type":["string","null"]})", {"null", R"("")"}, {"1"});
  expect(schema, R"({"type":"number"})", {"0", "-1.5e+10", "12345.678"},
         {"01", ".5", "1.", "+1", "NaN"});
  expect(
      schema,
      R"({"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/tree"},{"type":"null"}]}},"required":["v","next"]}}})",
      {R"({"v":1,"next":{"v":2,"next":null}})"}, {R"({"v":1})", R"({"v":1,"next":{}})"});
  expect(
      schema,
      R"({"allOf":[{"properties":{"a":{"type":"null"}},"required":["a"]},{"properties":{"b":{"type":"null"}}}]})",
      {R"({"a":null})", R"({"a":null,"b":null})"}, {"{}", R"({"b":null})"});
  expect(schema, "true", {"1", R"({"a":[1,{"b":null}]})", "[]"}, {"", "{", "tru"});
  expect(format_kind::json_object, "", {"{}", R"({"a": {"b": [1, 2]}})"}, {"[]", "1", R"({"a"})"});
}

TEST(structured, what_a_schema_cannot_be) {
  const auto schema = format_kind::json_schema;
  for (const char* bad :
       {"", "1", "false", "{\"type\":\"strange\"}", "{\"type\":1}", "{\"enum\":[]}",
        "{\"$ref\":\"#/nowhere\"}", "{\"type\":\"string\",\"minLength\":-1}",
        "{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "{\"required\":[\"a\"]}",
        "{\"minimum\":1}", "{\"type\":\"integer\",\"minimum\":\"x\"}",
        "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/a\"}}}",
        "{\"type\":\"string\",\"maxLength\":1000000000}",
        "{\"type\":\"object\",\"anyOf\":[{\"$ref\":\"\"}]}",
        "{\"type\":\"object\",\"allOf\":[{\"$ref\":\"x\"}]}",
        "{\"type\":\"string\",\"allOf\":[{\"$ref\":\"#/no\"}],\"no\":false}",
        "{\"type\":\"string\",\"allOf\":[false]}"})
    EXPECT_EQ(refusal(schema, bad), ec::invalid_argument) << bad;
  for (const char* bad :
       {"{\"not\":{}}", "{\"type\":\"array\",\"uniqueItems\":true}",
        "{\"type\":\"number\",\"minimum\":0}", "{\"type\":\"integer\",\"multipleOf\":2}",
        "{\"$ref\":\"https://example.org/x\"}", "{\"patternProperties\":{\"a\":{}}}",
        "{\"if\":{},\"then\":{}}"})
    EXPECT_EQ(refusal(schema, bad), ec::unsupported) << bad;
  EXPECT_EQ(refusal(schema, std::string(60'000, '[')), ec::invalid_argument);
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += "{\"items\":";
  EXPECT_EQ(refusal(schema, deep + "{}" + std::string(100, '}')), ec::invalid_argument);
  const std::string closing(2000, '}');
  EXPECT_EQ(refusal(schema, "{\"title\":\"\\\"" + closing + "\",\"const\":" +
                                std::string(400, '[') + std::string(400, ']') + "}"),
            ec::invalid_argument);
  // Each of 40 definitions is used twice by the one before.
  std::string doubling = "{\"type\":\"object\",\"anyOf\":[{\"$ref\":\"#/$defs/a0\"}],\"$defs\":{";
  for (int i = 0; i < 40; ++i) {
    const std::string next = "{\"$ref\":\"#/$defs/a" + std::to_string(i + 1) + "\"}";
    doubling += "\"a" + std::to_string(i) + "\":{\"anyOf\":[" + next + "," + next + "]},";
  }
  EXPECT_EQ(refusal(schema, doubling + "\"a40\":{\"required\":[]}}}"), ec::invalid_argument);
}

// A vocabulary of single bytes, some words that span JSON's tokens, and two special tokens at the end.
struct words {
  std::vector<std::string> texts;
  words() {
    for (int b = 0; b < 256; ++b) texts.emplace_back(1, static_cast<char>(b));
    for (const char* w : {"\":", "{\"", "\"}", "\", \"", "true", "nul", "name", "é", "12", ", ",
                          "a\"", "\xe2\x9c", "aaa"})
      texts.emplace_back(w);
    texts.emplace_back("");
    texts.emplace_back("<end>");
  }
  token_id end() const { return static_cast<token_id>(texts.size() - 1); }
  vocabulary make() const {
    const token_id ends[] = {end()};
    return vocabulary(
        static_cast<std::uint32_t>(texts.size()), [this](token_id t) { return texts[t]; }, ends);
  }
};

TEST(structured, masks_are_what_the_automaton_says) {
  const words w;
  const vocabulary v = w.make();
  const auto a =
      make(format_kind::json_schema,
           R"({"type":"object","properties":{"name":{"type":"string"},"ok":{"type":"boolean"}}})");
  std::mt19937 random(3);
  work_budget work(plenty);
  int compared = 0;
  for (int answer = 0; answer < 20; ++answer) {
    automaton::state s = a->start(work);
    for (int step = 0; step < 30; ++step) {
      const token_mask mask = v.allowed(*a, s, work);
      std::vector<token_id> possible;
      for (token_id t = 0; t < v.size(); ++t) {
        const bool expected =
            t == w.end() ? a->accepts(s) : v.next(*a, s, t, work) != automaton::dead;
        ASSERT_EQ(allows(mask, t), expected) << t;
        ++compared;
        if (allows(mask, t) && t != w.end()) possible.push_back(t);
      }
      if (possible.empty()) {
        EXPECT_TRUE(a->only_ends(s));
        break;
      }
      s = v.next(*a, s, possible[random() % possible.size()], work);
    }
  }
  EXPECT_GT(compared, 10'000);
}

TEST(structured, whatever_is_drawn_is_of_the_form) {
  const words w;
  const vocabulary v = w.make();
  const std::string schema =
      R"({"type":"object","properties":{"name":{"type":"string","maxLength":6},
    "list":{"type":"array","items":{"type":"integer","minimum":-3,"maximum":250},"maxItems":4},
    "more":{"anyOf":[{"type":"null"},{"type":"boolean"}]}},"required":["name","more"]})";
  const auto a = make(format_kind::json_schema, schema);
  std::mt19937 random(4);
  work_budget work(plenty);
  int ended = 0;
  for (int answer = 0; answer < 200; ++answer) {
    std::string text;
    automaton::state s = a->start(work);
    for (int step = 0; step < 400; ++step) {
      const token_mask mask = v.allowed(*a, s, work);
      std::vector<token_id> possible;
      for (token_id t = 0; t < v.size(); ++t)
        if (allows(mask, t)) possible.push_back(t);
      ASSERT_FALSE(possible.empty()) << text;
      const token_id t = possible[random() % possible.size()];
      if (t == w.end()) {
        const auto parsed = nlohmann::json::parse(text, nullptr, false);
        ASSERT_FALSE(parsed.is_discarded()) << text;
        ASSERT_TRUE(parsed.at("name").is_string() && parsed.contains("more")) << text;
        if (parsed.contains("list")) {
          for (const auto& i : parsed.at("list"))
            ASSERT_TRUE(i.get<int>() >= -3 && i.get<int>() <= 250) << text;
        }
        ++ended;
        break;
      }
      text += v.bytes(t);
      s = v.next(*a, s, t, work);
    }
  }
  EXPECT_EQ(ended, 200);
}

// So what an automaton grows by between two looks at full() is bounded by what may be spent.
TEST(structured, what_is_remembered_is_paid_for) {
  const auto paid = [](const automaton& a, const work_budget& work) {
    return a.bytes() <= (plenty - work.left()) * work_budget::bytes_per_step;
  };
  const auto nested = make(format_kind::json_object, "");
  work_budget work(plenty);
  automaton::state s = nested->start(work);
  for (int i = 0; i < 6000; ++i)
    for (const char c : std::string_view("{\"a\":["))
      s = nested->next(s, static_cast<std::uint8_t>(c), work);
  EXPECT_NE(s, automaton::dead);
  EXPECT_TRUE(nested->full());
  EXPECT_TRUE(paid(*nested, work));
  automaton another(nested->rules());
  work_budget moving(plenty);
  EXPECT_NE(another.take(*nested, s, moving), automaton::dead);
  EXPECT_TRUE(paid(another, moving));
  EXPECT_GT(another.bytes(), 6000u);

  // A state for each character, with steps for many classes of bytes.
  std::string letters;
  for (char c = 'a'; c <= 'z'; ++c) letters += (letters.empty() ? "" : "|") + std::string(2, c);
  const auto counted = make(format_kind::regex, "x{3000}(" + letters + ")");
  work_budget counting(plenty);
  EXPECT_NE(follow(*counted, std::string(2900, 'x'), counting), automaton::dead);
  EXPECT_TRUE(paid(*counted, counting));
}

TEST(structured, a_state_means_the_same_in_another_automaton) {
  const words w;
  const vocabulary v = w.make();
  const auto a = make(format_kind::json_schema,
                      R"({"type":"array","items":{"anyOf":[{"type":"object","properties":
    {"name":{"type":"string"},"ok":{"type":"boolean"}}},{"type":"integer"},{"$ref":"#"}]}})");
  std::mt19937 random(6);
  work_budget work(plenty);
  int different = 0;
  for (int answer = 0; answer < 20; ++answer) {
    automaton::state s = a->start(work);
    for (int step = 0; step < 40; ++step) {
      const token_mask mask = v.allowed(*a, s, work);
      automaton other(a->rules());
      const automaton::state moved = other.take(*a, s, work);
      ASSERT_EQ(v.allowed(other, moved, work), mask);
      ASSERT_EQ(other.only_ends(moved), a->only_ends(s));
      EXPECT_EQ(other.take(*a, s, work), moved);
      different += moved != s;
      std::vector<token_id> possible;
      for (token_id t = 0; t < v.size(); ++t)
        if (t != w.end() && allows(mask, t)) possible.push_back(t);
      if (possible.empty()) break;
      s = v.next(*a, s, possible[random() % possible.size()], work);
    }
  }
  EXPECT_GT(different, 100);
}

TEST(structured, a_state_that_is_too_large_to_move_is_none) {
  const auto a = make(format_kind::grammar, "root ::= \"[\" root \"]\" | \"x\"");
  work_budget work(plenty);
  const automaton::state s = follow(*a, std::string(5000, '['), work);
  ASSERT_NE(s, automaton::dead);
  automaton other(a->rules());
  work_budget little(4000);
  EXPECT_EQ(other.take(*a, s, little), automaton::dead);
  EXPECT_TRUE(little.exceeded());
  EXPECT_LE(other.bytes(), 4000 * work_budget::bytes_per_step);
}

// Each rule is the next one twice, and the last may be empty: 2^60 stacks.
std::string many_stacks() {
  std::string rules;
  for (int i = 0; i < 60; ++i) {
    const std::string next = " a" + std::to_string(i + 1);
    rules += "a" + std::to_string(i) + " ::=" + next + next + "\n";
  }
  return rules + "a60 ::= \"x\"?\n";
}

TEST(structured, stacks_of_one_state_are_bounded) {
  const auto a = make(format_kind::grammar, "root ::= a0\n" + many_stacks());
  work_budget work;
  EXPECT_EQ(a->start(work), automaton::dead);
  EXPECT_TRUE(work.exceeded());
  EXPECT_LE(a->bytes(), work_budget::at_once * work_budget::bytes_per_step);
}

// What one answer could not pay for, another one can, and nothing wrong was remembered in between.
TEST(structured, work_that_did_not_suffice_is_not_held_against_others) {
  const auto a = make(format_kind::regex, "x((([a-z]{1,9}){1,9}){1,9})");
  const auto apart = make(format_kind::regex, "x((([a-z]{1,9}){1,9}){1,9})");
  const words w;
  const vocabulary v = w.make();
  for (std::size_t steps = 50; steps < 8000; steps += steps / 4) {
    work_budget little(steps);
    const automaton::state s = follow(*a, "xab", little);
    if (s != automaton::dead) v.allowed(*a, s, little);
    if (steps < 100) {
      EXPECT_TRUE(little.exceeded());
    }
    work_budget work(plenty), work_apart(plenty);
    const automaton::state there = follow(*apart, "xab", work_apart);
    if (little.exceeded()) continue;
    EXPECT_EQ(v.allowed(*a, follow(*a, "xab", work), work), v.allowed(*apart, there, work_apart));
    return;
  }
  FAIL() << "no answer of the form could be paid for";
}

// Follows an answer by masks, for as many tokens as may be; whether it could not be paid for. No mask takes more work than
// may be done in one go.
bool gives_up(format_kind kind, const std::string& source, int tokens) {
  const words w;
  const vocabulary v = w.make();
  auto g = compile({kind, source});
  if (!g) throw std::runtime_error(to_string(g.error()));
  automaton a(std::move(*g));
  work_budget work;
  automaton::state s = a.start(work);
  std::mt19937 random(5);
  for (int step = 0; step < tokens && !work.exceeded(); ++step) {
    work.grant_token();
    EXPECT_LE(work.left(), work_budget::at_once);
    const token_mask mask = v.allowed(a, s, work);
    std::vector<token_id> possible;
    for (token_id t = 0; t < v.size(); ++t)
      if (t != w.end() && allows(mask, t) && !a.only_ends(v.next(a, s, t, work)))
        possible.push_back(t);
    if (possible.empty()) break;
    work.grant_token();
    s = v.next(a, s, possible[random() % possible.size()], work);
  }
  EXPECT_LT(a.bytes(), std::size_t{48} << 20) << source.substr(0, 40);
  return work.exceeded();
}

// Repetitions of repetitions: each byte may end a great many of them.
TEST(structured, work_is_bounded) {
  for (const char* once : {"a", "[a-z]", "."})
    EXPECT_TRUE(gives_up(format_kind::regex,
                         "((((" + std::string(once) + "{1,50}){1,50}){1,50}){1,50}){1,50}", 200))
        << once;
  // No single state is large, but each byte leads to another one and has all positions to look at.
  std::string any;
  for (char c = 'a'; c <= 'w'; ++c)
    any += (any.empty() ? "[" : "|[") + std::string(1, c) + "-" + static_cast<char>(c + 2) + "]";
  EXPECT_TRUE(gives_up(format_kind::regex, "((" + any + ")?){1,400}", 300));
}

// Many easy tokens do not save up for one that stalls everybody.
TEST(structured, work_that_is_not_done_is_not_owed) {
  EXPECT_TRUE(gives_up(format_kind::regex, "x{400}((([a-z]{1,90}){1,90}){1,90})", 500));
}

TEST(structured, large_schemas_are_no_work) {
  std::string properties, strings;
  for (int i = 0; i < 4000; ++i) {
    const std::string name = "\"n" + std::to_string(i * 7919) + "\"";
    properties += (i ? "," : "") + name + ":{\"type\":\"boolean\"}";
    strings += (i ? "," : "") + name;
  }
  EXPECT_FALSE(gives_up(format_kind::json_schema,
                        R"({"type":"object","properties":{)" + properties + "}}", 300));
  EXPECT_FALSE(gives_up(format_kind::json_schema,
                        R"({"type":"array","items":{"enum":[)" + strings + "]}}", 300));
}

}  // namespace
}  // namespace troupe::engine::structured
