// Every field with hostile values: each is a 400 that names the field.
#include "api/request.hpp"

#include "api/answer_format_fields.hpp"

#include <gtest/gtest.h>

namespace troupe::api {
namespace {

using nlohmann::json;

const request_limits limits = [] {
  request_limits l;
  l.vocab_size = 1000;
  return l;
}();

const json chat_base = {{"model", "m"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}};
const json completion_base = {{"model", "m"}, {"prompt", "hi"}};

json with(json base, const std::string& field, const std::string& value) {
  base[field] = json::parse(value);
  return base;
}

struct hostile {
  const char* field;
  std::vector<const char*> values;
};

// Fields of both endpoints.
const std::vector<hostile> both{
    {"model", {"1", "[]", "true", "{}"}},
    {"temperature", {"-0.1", "2.1", "1e308", "-1e308", "\"1\"", "true", "[]", "{}"}},
    {"top_p", {"0", "-1", "1.01", "1e308", "\"0.5\"", "false"}},
    {"top_k", {"-2", "1.5", "1e300", "4294967296", "\"4\"", "true", "18446744073709551615"}},
    {"min_p", {"-0.01", "1.01", "\"x\"", "[]"}},
    {"repetition_penalty", {"0", "-1", "11", "\"1\"", "1e308"}},
    {"repeat_penalty", {"0", "-1", "1e10"}},
    {"presence_penalty", {"-2.1", "2.1", "\"0\"", "{}"}},
    {"frequency_penalty", {"-3", "3", "[1]", "true"}},
    {"seed",
     {"18446744073709551616", "9223372036854775808", "-9223372036854775809", "1.5", "\"7\"",
      "true"}},
    {"n", {"0", "-1", "129", "1000000", "1.5", "\"2\"", "true", "9223372036854775807"}},
    {"best_of", {"2", "0", "-1", "\"x\"", "1e9"}},
    {"max_tokens",
     {"-2", "-9223372036854775808", "9223372036854775807", "1.5", "\"9\"", "true", "4294967296"}},
    {"max_completion_tokens", {"-2", "1e300", "\"9\"", "[]"}},
    {"n_predict", {"-2", "1e300"}},
    {"min_tokens", {"-1", "1.5", "\"1\"", "1e300", "99999999999"}},
    {"ignore_eos", {"1", "\"true\"", "[]"}},
    {"stream", {"1", "\"true\"", "{}"}},
    {"stream_options", {"1", "[]", "\"x\"", "{\"include_usage\":true}"}},
    {"include_stop_str_in_output", {"1", "\"x\""}},
    {"skip_special_tokens", {"0", "\"x\""}},
    {"return_tokens_as_token_ids", {"0", "\"x\""}},
    {"return_trace", {"0"}},
    {"stop",
     {"\"\"", "[\"\"]", "1", "[1]", "{}", "[[\"a\"]]", "true",
      "[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\",\"13\",\"14\","
      "\"15\",\"16\",\"17\"]"}},
    {"stop_token_ids",
     {"1", "[-1]", "[1000]", "[1.5]", "[\"1\"]", "{}", "[null]", "[18446744073709551615]"}},
    {"logit_bias",
     {"[]", "1", "{\"-1\":1}", "{\"1000\":1}", "{\"x\":1}", "{\"\":1}", "{\"1\":101}",
      "{\"1\":-101}", "{\"1\":\"1\"}", "{\"1\":null}", "{\"1e2\":1}",
      "{\"99999999999999999999\":1}", "{\" 1\":1}", "{\"0x1\":1}"}},
    {"cache_salt", {"\"\"", "1", "[]"}},
    {"response_format",
     {"1", "{}", "\"json\"", "{\"type\":1}", "{\"type\":\"xml\"}",
      "{\"type\":\"json_schema\",\"json_schema\":{}}",
      "{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"type\":\"strange\"}}}",
      "{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"not\":{}}}}",
      "{\"type\":\"json_object\",\"schema\":1}"}},
    {"guided_json", {"1", "[]", "\"x\"", "{\"enum\":[]}"}},
    {"json_schema", {"1", "\"{\""}},
    {"guided_regex", {"1", "\"(\"", "\"(?=a)\""}},
    {"guided_choice", {"\"a\"", "[]", "[1]", "[\"\"]"}},
    {"guided_grammar", {"1", "\"root\""}},
    {"grammar", {"\"root ::= x\"", "\"root ::= root\""}},
    {"structured_outputs",
     {"1", "{\"regex\":\"(\"}", "{\"regex\":\"a\",\"json_object\":true}",
      "{\"structural_tag\":\"x\"}"}},
    {"bad_words", {"[\"x\"]"}},
    {"use_beam_search", {"true", "1"}},
    {"prompt_logprobs", {"1", "true"}},
};

template <class Parse>
void expect_refused(Parse parse, const json& base, const std::vector<hostile>& table) {
  for (const auto& row : table)
    for (const char* value : row.values) {
      auto r = parse(with(base, row.field, value), limits);
      ASSERT_FALSE(r.has_value()) << row.field << " = " << value;
      EXPECT_EQ(r.error().status, 400) << row.field << " = " << value;
      EXPECT_EQ(r.error().param, row.field) << row.field << " = " << value;
      EXPECT_FALSE(r.error().message.empty());
    }
}

TEST(request, hostile_values_are_refused_by_name) {
  expect_refused(parse_chat, chat_base, both);
  expect_refused(parse_completion, completion_base, both);
}

TEST(request, hostile_values_of_chat) {
  expect_refused(
      parse_chat, chat_base,
      {{"messages",
        {"[]", "1", "\"hi\"", "{}", "[1]", "[{}]", "[{\"role\":\"user\"}]",
         "[{\"role\":1,\"content\":\"\"}]", "[{\"role\":\"root\",\"content\":\"x\"}]",
         "[{\"role\":\"user\",\"content\":1}]", "[{\"role\":\"user\",\"content\":{}}]",
         "[{\"role\":\"user\",\"content\":[1]}]", "[{\"role\":\"user\",\"content\":[{}]}]",
         "[{\"role\":\"user\",\"content\":[{\"type\":1}]}]",
         "[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]",
         "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"file://"
         "/etc\"}}]}]",
         "[{\"role\":\"user\",\"content\":null}]", "null"}},
       {"logprobs", {"1", "\"true\""}},
       {"top_logprobs", {"-1", "21", "1000000000", "1", "\"2\""}},
       {"tools", {"[{}]", "1", "{}"}},
       {"functions", {"[{}]"}},
       {"tool_choice", {"\"required\"", "{\"type\":\"function\"}"}},
       {"modalities", {"[\"audio\"]"}},
       {"audio", {"{}"}},
       {"chat_template", {"\"{{ x }}\""}},
       {"chat_template_kwargs",
        {"1", "[]", "{\"messages\":[]}", "{\"tokenize\":true}", "{\"chat_template\":\"x\"}"}},
       {"add_generation_prompt", {"1"}},
       {"continue_final_message", {"1"}},
       {"suffix", {"\"x\"", "1"}},
       {"echo", {"true"}}});
}

TEST(request, hostile_values_of_completions) {
  expect_refused(parse_completion, completion_base,
                 {{"prompt",
                   {"null", "1", "{}", "[]", "[[]]", "[null]", "[\"a\",1]", "[1,\"a\"]",
                    "[[1],\"a\"]", "[\"a\",[1]]", "[-1]", "[1000]", "[1.5]",
                    "[18446744073709551615]", "[[1],[1000]]", "true"}},
                  {"logprobs", {"-1", "21", "1e9", "\"2\""}},
                  {"echo", {"1", "\"true\""}},
                  {"suffix", {"1", "[\"x\"]"}},
                  {"add_special_tokens", {"1"}}});
  json between = completion_base;
  between["suffix"] = "x";
  between["echo"] = true;
  EXPECT_EQ(parse_completion(between, limits).error().param, "suffix");
  between.erase("echo");
  between["prompt"] = std::vector<int>{1, 2};
  EXPECT_EQ(parse_completion(between, limits).error().param, "suffix");
  between["prompt"] = "before";
  EXPECT_EQ(parse_completion(between, limits)->suffix, "x");
  json many = completion_base;
  many["prompt"] = std::vector<std::string>(129, "x");
  EXPECT_EQ(parse_completion(many, limits).error().param, "prompt");
  many["prompt"] = std::vector<std::string>(100000, "x");
  EXPECT_EQ(parse_completion(many, limits).error().param, "prompt");
  many["prompt"] = std::vector<std::string>(100, "x");
  many["n"] = 11;
  EXPECT_EQ(parse_completion(many, limits).error().param, "n");
}

TEST(request, null_is_absent) {
  for (const auto& row : both) {
    if (std::string_view(row.field) == "n") continue;
    EXPECT_TRUE(parse_chat(with(chat_base, row.field, "null"), limits)) << row.field;
  }
}

TEST(request, unknown_and_harmless_fields_are_ignored) {
  json body = chat_base;
  body["user"] = "u", body["metadata"] = {{"a", 1}}, body["store"] = true,
  body["service_tier"] = "auto";
  body["something_new"] = {1, 2, 3};
  body["tools"] = json::array(), body["tool_choice"] = "none",
  body["response_format"] = {{"type", "text"}};
  EXPECT_TRUE(parse_chat(body, limits));
}

TEST(request, forms_of_the_answer_arrive) {
  using engine::structured::format_kind;
  const auto parsed = [](const char* fields) {
    std::string raw = R"({"prompt":"x",)" + std::string(fields) + "}";
    json body = json::parse(raw);
    keep_schema_order(body, raw);
    auto c = parse_completion(body, limits);
    EXPECT_TRUE(c) << fields << ": " << (c ? "" : c.error().message);
    return c ? c->common.sampling.format : engine::structured::answer_format{};
  };
  const std::string schema =
      R"({"type":"object","properties":{"z":{"type":"null"},"a":{"type":"null"}}})";
  for (
      const std::string& field :
      {R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":)" +
           schema + "}}",
       R"("response_format":{"type":"json_object","schema":)" + schema + "}",
       R"("guided_json":)" + schema, R"("guided_json":)" + json(schema).dump(),
       R"("json_schema":)" + schema, R"("structured_outputs":{"json":)" + schema + "}"}) {
    const auto f = parsed(field.c_str());
    EXPECT_EQ(f.kind, format_kind::json_schema) << field;
    EXPECT_EQ(f.source, schema) << "properties stay in the order of the schema";
  }
  EXPECT_EQ(parsed(R"("response_format":{"type":"json_object"})").kind, format_kind::json_object);
  EXPECT_EQ(parsed(R"("response_format":{"type":"text"},"grammar":"")").kind, format_kind::text);
  EXPECT_EQ(parsed(R"("guided_regex":"a+")"),
            (engine::structured::answer_format{format_kind::regex, "a+"}));
  EXPECT_EQ(parsed(R"("guided_choice":["b","a"])"),
            (engine::structured::answer_format{format_kind::choice, R"(["b","a"])"}));
  EXPECT_EQ(parsed(R"("grammar":"root ::= \"a\"")").kind, format_kind::grammar);
  EXPECT_EQ(parsed(R"("structured_outputs":{"choice":["x"]})").kind, format_kind::choice);
}

TEST(request, parts_that_are_no_text_are_named_and_refusals_are_text) {
  const auto ask = [](const char* content) {
    json body = chat_base;
    body["messages"] = json::parse(R"([{"role":"user","content":"a"},{"role":"assistant"},
                                       {"role":"user","content":"b"}])");
    body["messages"][1]["content"] = json::parse(content);
    return parse_chat(body, limits);
  };
  const auto refused = ask(R"([{"type":"refusal","refusal":"no"}])");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->messages[1]["content"][0]["text"], "no");
  EXPECT_FALSE(ask(R"([{"type":"refusal","refusal":3}])"));
  EXPECT_FALSE(ask(R"([{"type":"refusal"}])"));
  const auto image = ask(R"([{"type":"image_url","image_url":{"url":"x"}}])");
  ASSERT_FALSE(image);
  for (const char* words : {"messages[1]", "image_url", "text only"})
    EXPECT_NE(image.error().message.find(words), std::string::npos) << words;
}

TEST(request, fields_arrive) {
  auto c = parse_chat(json::parse(R"({"messages":[{"role":"developer","content":"be brief"},
      {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"assistant","content":null,"tool_calls":[]}],
      "temperature":0.5,"top_p":0.9,"top_k":-1,"min_p":0.1,"repeat_penalty":1.1,"presence_penalty":-2,
      "frequency_penalty":2,"seed":-3,"n":3,"best_of":3,"max_tokens":5,"max_completion_tokens":7,"min_tokens":2,
      "stop":["a","b"],"stop_token_ids":[1,999],"logit_bias":{"5":-100,"6":1.5},"logprobs":true,"top_logprobs":4,
      "stream":true,"stream_options":{"include_usage":true},"cache_salt":"s","ignore_eos":true})"),
                      limits);
  ASSERT_TRUE(c) << c.error().message;
  const auto& p = c->common.sampling;
  EXPECT_FLOAT_EQ(p.temperature, 0.5f);
  EXPECT_EQ(p.top_k, 0u);
  EXPECT_FLOAT_EQ(p.repetition_penalty, 1.1f);
  EXPECT_EQ(p.seed, static_cast<std::uint64_t>(-3));
  EXPECT_EQ(c->common.max_tokens, 7u);
  EXPECT_EQ(p.logprobs, 4u);
  EXPECT_EQ(p.stop_token_ids, (std::vector<token_id>{1, 999}));
  EXPECT_EQ(p.logit_bias.size(), 2u);
  EXPECT_EQ(c->common.stop.size(), 2u);
  EXPECT_TRUE(c->common.include_usage);
  EXPECT_EQ(c->messages[0]["role"], "system");
  EXPECT_EQ(c->messages[2]["content"], "");
}

TEST(request, prompts_in_all_four_forms) {
  auto prompts = [](const char* value) {
    return parse_completion(with(completion_base, "prompt", value), limits)->prompts;
  };
  EXPECT_EQ(prompts("\"a\"").size(), 1u);
  EXPECT_EQ(prompts("[\"a\",\"b\"]")[1].text, "b");
  EXPECT_EQ(prompts("[1,2,3]")[0].tokens, (std::vector<token_id>{1, 2, 3}));
  EXPECT_EQ(prompts("[[1],[2,3]]")[1].tokens, (std::vector<token_id>{2, 3}));
}

TEST(request, defaults_of_other_servers_are_taken_and_their_samplers_are_not) {
  const auto parsed = [](const char* field, const char* value) {
    return parse_completion(with(completion_base, field, value), limits);
  };
  for (const char* name : {"n_predict", "max_tokens"}) {  // llama.cpp's: the rest of the context
    ASSERT_TRUE(parsed(name, "-1"));
    EXPECT_FALSE(parsed(name, "-1")->common.max_tokens);
    EXPECT_TRUE(parsed(name, "-1")->common.to_the_end);
    EXPECT_FALSE(parsed(name, "7")->common.to_the_end);
  }
  for (const auto& [field, neutral, other] : {std::tuple{"mirostat", "0", "2"},
                                              {"typical_p", "1.0", "0.9"},
                                              {"dry_multiplier", "0", "0.8"},
                                              {"xtc_probability", "0", "0.5"},
                                              {"no_repeat_ngram_size", "0", "3"}}) {
    EXPECT_TRUE(parsed(field, neutral)) << field;
    const auto refused = parsed(field, other);
    ASSERT_FALSE(refused) << field;
    EXPECT_EQ(refused.error().param, field);
  }
  EXPECT_FALSE(parsed("regex", "\"a+\""));
}

TEST(request, completion_logprobs_may_be_zero) {
  EXPECT_EQ(
      parse_completion(with(completion_base, "logprobs", "0"), limits)->common.sampling.logprobs,
      0u);
  EXPECT_FALSE(parse_completion(completion_base, limits)->common.sampling.logprobs);
}

}  // namespace
}  // namespace troupe::api
