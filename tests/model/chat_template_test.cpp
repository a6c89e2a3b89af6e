// Chat templates against jinja2's recorded output (tests/reference/chat_template_reference.py --fixtures), and what
// the engine promises beyond: origin of text, limits, errors with positions.
#include "model/chat_template.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

namespace troupe::model {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::string fixtures_path = TROUPE_SOURCE_DIR "/tests/model/chat_template_cases.json";

std::string read(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

std::string join(const std::vector<text_segment>& segments) {
  std::string out;
  for (const text_segment& one : segments) out += one.text;
  return out;
}

result<std::vector<text_segment>> render(std::string_view source, const ordered_json& context,
                                         template_limits limits = {}) {
  const auto made = chat_template::make(source, limits);
  if (!made) return tl::unexpected(made.error());
  return (*made)->render_ordered(context);
}

std::string text_of(std::string_view source, const ordered_json& context = ordered_json::object()) {
  const auto made = render(source, context);
  return made ? join(*made) : to_string(made.error());
}

std::string error_of(std::string_view source, const ordered_json& context = ordered_json::object(),
                     template_limits limits = {}) {
  const auto made = render(source, context, limits);
  if (made) return "no error";
  EXPECT_EQ(made.error().code, ec::invalid_argument);
  return made.error().detail;
}

// Template text in <>, data as it is.
std::string marked(std::string_view source, const ordered_json& context) {
  const auto made = render(source, context);
  if (!made) return to_string(made.error());
  std::string out;
  for (const text_segment& one : *made) out += one.parse_special ? "<" + one.text + ">" : one.text;
  return out;
}

void expect_case(const ordered_json& one, const std::string& source, const ordered_json& context) {
  const auto got = render(source, context);
  if (one.contains("text")) {
    ASSERT_TRUE(got) << source << "\n" << to_string(got.error());
    EXPECT_EQ(join(*got), one["text"].get<std::string>()) << source;
  } else {
    ASSERT_FALSE(got) << source << "\n" << join(*got);
    if (one["error"].is_string()) {
      EXPECT_EQ(got.error().detail, one["error"].get<std::string>()) << source;
    }
  }
}

TEST(chat_template, equals_jinja2_on_templates_of_model_families) {
  const auto fixtures = ordered_json::parse(read(fixtures_path));
  ASSERT_GE(fixtures["templates"].size(), 1000u);
  for (const auto& one : fixtures["templates"]) {
    const auto name = one["file"].get<std::string>();
    SCOPED_TRACE(name);
    expect_case(one, read(TROUPE_SOURCE_DIR "/tests/reference/templates/" + name),
                fixtures["contexts"][one["context"].get<std::size_t>()]);
  }
}

TEST(chat_template, equals_jinja2_on_snippets) {
  const auto fixtures = ordered_json::parse(read(fixtures_path));
  ASSERT_GE(fixtures["snippets"].size(), 100u);
  for (const auto& one : fixtures["snippets"])
    expect_case(one, one["source"].get<std::string>(), fixtures["data"]);
}

TEST(chat_template, keeps_template_and_data_apart) {
  const ordered_json context = {{"m", {{"c", "<|im_end|>"}}}, {"bos_token", "<s>"}, {"n", 5}};
  EXPECT_EQ(marked("a{{ m.c }}b", context), "<a><|im_end|><b>");
  EXPECT_EQ(marked("{{ '<|x|>' + m.c + '<|y|>' }}", context), "<<|x|>><|im_end|><<|y|>>");
  EXPECT_EQ(marked("{{ bos_token ~ m.c ~ n }}", context), "<<s>><|im_end|><5>");
  EXPECT_EQ(marked("{{ m.c|upper }}{{ m.c[2:4] }}{{ m.c|trim('<') }}", context),
            "<|IM_END|>im|im_end|>");
  EXPECT_EQ(marked("{{ m|tojson }}", context), "<{\">c<\": \"><|im_end|><\"}>");
  EXPECT_EQ(marked("{{ [m.c, 'z']|join('-') }}", context), "<|im_end|><-z>");
  EXPECT_EQ(marked("{{ ('-' ~ m.c).split('|')|join('/') }}", context), "<-><</>im_end</>>");
  EXPECT_EQ(marked("{{ 'a-b'|replace('-', m.c) }}", context), "<a><|im_end|><b>");
  EXPECT_EQ(marked("{% set x %}[{{ m.c }}]{% endset %}{{ x }}", context), "<[><|im_end|><]>");
  EXPECT_EQ(marked("{% macro f(a) %}<{{ a }}{% endmacro %}{{ f(m.c)|capitalize }}", context),
            "<<><|im_end|>");
  EXPECT_EQ(marked("{% for k in m %}{{ k }}{% endfor %}{{ m }}", context),
            "c<{'>c<': '><|im_end|><'}>");
  EXPECT_EQ(marked("{% set ns = namespace(x='') %}{% set ns.x = ns.x ~ m.c %}{{ ns.x }}", context),
            "<|im_end|>");
}

TEST(chat_template, knows_how_it_wants_content) {
  const auto wants = [](const char* name) {
    const auto made = chat_template::make(
        read(std::string(TROUPE_SOURCE_DIR "/tests/reference/templates/") + name));
    EXPECT_TRUE(made);
    return (*made)->wants_content_parts();
  };
  EXPECT_TRUE(wants("parts-only.jinja"));
  for (const char* name : {"chatml.jinja", "gemma-3.jinja", "llama-3.1.jinja", "qwen2.5.jinja",
                           "zephyr.jinja", "qwen3.jinja"})
    EXPECT_FALSE(wants(name)) << name;
}

TEST(chat_template, knows_what_it_does_with_tools) {
  const auto of = [](const char* name) {
    const auto made = chat_template::make(
        read(std::string(TROUPE_SOURCE_DIR "/tests/reference/templates/") + name));
    EXPECT_TRUE(made);
    return (*made)->tools();
  };
  for (const char* name :
       {"qwen2.5.jinja", "qwen3.jinja", "llama-3.1.jinja", "mistral-tools.jinja"}) {
    EXPECT_TRUE(of(name).tools) << name;
    EXPECT_TRUE(of(name).calls) << name;
    EXPECT_FALSE(of(name).text_arguments) << name;
    EXPECT_TRUE(of(name).null_content) << name;
  }
  EXPECT_FALSE(of("deepseek-v3.jinja").tools);
  EXPECT_TRUE(of("deepseek-v3.jinja").calls);
  EXPECT_TRUE(of("qwen3-coder.jinja").tools);
  EXPECT_TRUE(of("qwen3-coder.jinja").calls);
  for (const char* name : {"chatml.jinja", "gemma-3.jinja", "llama-2.jinja", "zephyr.jinja"}) {
    EXPECT_FALSE(of(name).tools) << name;
    EXPECT_FALSE(of(name).calls) << name;
  }
  const auto made = chat_template::make(
      "{% for m in messages %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ "
      "c.function.name + c.function.arguments }}{% endfor %}{% endfor %}");
  ASSERT_TRUE(made);
  EXPECT_TRUE((*made)->tools().text_arguments);
  EXPECT_TRUE((*made)->mentions("c.function.name"));
  EXPECT_FALSE((*made)->mentions("<tool_call>"));
}

TEST(chat_template, names_line_and_column) {
  EXPECT_EQ(error_of("a\n  {{ x|nope }}"),
            "template, line 2, column 8: the filter 'nope' is not supported");
  EXPECT_THAT(error_of("{% include 'x' %}"),
              StartsWith("template, line 1, column 4: the tag 'include'"));
  EXPECT_THAT(error_of("{% for x in y recursive %}{% endfor %}"),
              HasSubstr("recursive loops are not supported"));
  EXPECT_THAT(error_of("\n{% if x %}\n"), HasSubstr("line 2, column 4: the if that begins here"));
  EXPECT_THAT(error_of("ok\n{{ a.b.c }}", {{"a", 1}}),
              HasSubstr("line 2, column 7: 'b' is undefined"));
  EXPECT_THAT(error_of("{{ 1 +\n 'a' }}"),
              HasSubstr("unsupported operand types for +: 'int' and 'str'"));
  EXPECT_EQ(error_of("{{ raise_exception('roles must alternate') }}"), "roles must alternate");
  EXPECT_EQ(error_of("{% macro m() %}{{ raise_exception('x') }}{% endmacro %}{{ m()|upper }}"),
            "x");
}

TEST(chat_template, limits_steps) {
  EXPECT_THAT(
      error_of("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
      HasSubstr("steps"));
  EXPECT_THAT(
      error_of(
          "{% macro f() %}{% for i in range(9) %}{{ f() }}{% endfor %}{% endmacro %}{{ f() }}"),
      HasSubstr("nested more deeply"));
  // Doubling: text, lists, and text by replacement.
  EXPECT_THAT(error_of("{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x "
                       "~ ns.x %}{% endfor %}"),
              HasSubstr("steps"));
  EXPECT_THAT(error_of("{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x "
                       "+ ns.x %}{% endfor %}"),
              HasSubstr("steps"));
  EXPECT_THAT(error_of("{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = "
                       "ns.x|replace('a', 'aa') %}{% endfor %}"),
              ::testing::AnyOf(HasSubstr("steps"), HasSubstr("too long")));
  EXPECT_THAT(error_of("{{ 'x' * 99999999999 }}"), HasSubstr("steps"));
  EXPECT_THAT(error_of("{{ range(100001) }}"), HasSubstr("range is too large"));
  EXPECT_EQ(text_of("{{ range(100000)|length }}"), "100000");
}

TEST(chat_template, limits_output) {
  EXPECT_THAT(error_of("{% for i in range(100) %}0123456789{% endfor %}", ordered_json::object(),
                       {.output_bytes = 999}),
              HasSubstr("999 bytes"));
  EXPECT_EQ(join(*render("{% for i in range(100) %}0123456789{% endfor %}", ordered_json::object(),
                         {.output_bytes = 1000}))
                .size(),
            1000u);
}

TEST(chat_template, limits_depth) {
  for (const char* unit : {"(", "[", "{'a':", "-", "not ", "a[", "f(", "x if ", "{% if a %}",
                           "{% for a in b %}", "1 if 1 else "}) {
    std::string source = unit[0] == '{' && unit[1] == '%' ? "" : "{{ ";
    for (int i = 0; i < 100'000; ++i) source += unit;
    EXPECT_FALSE(chat_template::make(source)) << unit;
  }
  // Long, not deep.
  for (const char* unit : {" + 1", " ~ 'a'", " * 1", " and 1", " or 0", " == 1", "|string"}) {
    std::string source = "{{ 1";
    for (int i = 0; i < 10'000; ++i) source += unit;
    const auto made = render(source + " }}", ordered_json::object());
    EXPECT_EQ(static_cast<bool>(made), std::string_view(unit) != "|string") << unit;
  }
  EXPECT_THAT(error_of("{% set l = [] %}{% set _ = l.append(l) %}{{ l }}"),
              HasSubstr("nested more deeply"));
  EXPECT_THAT(error_of("{% set l = [] %}{% set _ = l.append(l) %}{{ l|tojson }}"),
              HasSubstr("nested more deeply"));
  EXPECT_THAT(error_of("{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = "
                       "[ns.x] %}{% endfor %}{{ ns.x == 1 }}{{ ns.x|tojson }}"),
              HasSubstr("nested more deeply"));
  ordered_json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = ordered_json::array({deep});
  EXPECT_THAT(error_of("{{ x }}", {{"x", deep}}), HasSubstr("nested more deeply"));
}

TEST(chat_template, macros_recurse_as_deep_as_schemas_do) {
  ordered_json schema = {{"t", "leaf"}};
  for (int i = 0; i < 20; ++i) schema = {{"c", schema}};
  const std::string source =
      "{% macro f(s) %}{% if s.c is defined %}{% for k, v in s.items() %}{% if k == 'c' %}({{ "
      "f(v)|trim }}){% endif %}"
      "{% endfor %}{% else %}{{ s.t }}{% endif %}{% endmacro %}{{ f(x) }}";
  EXPECT_EQ(text_of(source, {{"x", schema}}), std::string(20, '(') + "leaf" + std::string(20, ')'));
}

TEST(chat_template, appends_to_lists) {
  EXPECT_EQ(
      text_of("{% set l = [1] %}{% for i in [2, 3] %}{% set _ = l.append(i) %}{% endfor %}{{ l }}"),
      "[1, 2, 3]");
}

TEST(chat_template, tells_the_time) {
  const std::time_t now = std::time(nullptr);
  char year[8];
  std::strftime(year, sizeof year, "%Y", std::localtime(&now));
  EXPECT_EQ(text_of("{{ strftime_now('%Y') }}"), year);
}

TEST(chat_template, renders_sorted_json_too) {
  const auto made = chat_template::make("{{ a|tojson }}{{ b }}");
  ASSERT_TRUE(made);
  const auto got = (*made)->render({{"b", 1}, {"a", {{"y", 1}, {"x", 2}}}});
  ASSERT_TRUE(got);
  EXPECT_EQ(join(*got), "{\"x\": 2, \"y\": 1}1");
  EXPECT_FALSE((*made)->render(nlohmann::json::array()));
}

TEST(chat_template, refuses_what_no_model_carries) {
  EXPECT_FALSE(chat_template::make(std::string((1 << 20) + 1, 'a')));
  EXPECT_EQ(text_of(""), "");
  EXPECT_EQ(text_of("\n"), "");
}

}  // namespace
}  // namespace troupe::model
