#include "api/json_input.hpp"

#include <gtest/gtest.h>

namespace troupe::api {
namespace {

TEST(json_input, refuses_what_is_not_a_sane_object) {
  const std::string deep_array =
      "{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}";
  const std::string deep_object = [] {
    std::string s;
    for (int i = 0; i < 70; ++i) s += "{\"a\":";
    return s + "1" + std::string(70, '}');
  }();
  const std::string many = "{\"a\":[" + std::string(2'400'000, ',') + "]}";
  const std::vector<std::string> bad{"",
                                     "   ",
                                     "null",
                                     "[]",
                                     "\"text\"",
                                     "42",
                                     "{",
                                     "{\"a\":}",
                                     "{\"a\":1,}",
                                     "{a:1}",
                                     "{\"a\":NaN}",
                                     "{\"a\":Infinity}",
                                     "{\"a\":1e999}",
                                     "{\"a\":-1e999}",
                                     "{\"a\":\"\\ud800\"}",
                                     "{\"a\":\"\\udc00x\"}",
                                     "{\"a\":\"\xff\"}",
                                     "{\"a\":\"\xed\xa0\x80\"}",
                                     "{\"a\":\"\xc0\xaf\"}",
                                     "{\"a\":\"\n\"}",
                                     "{\"a\":01}",
                                     "{\"a\":1} x",
                                     std::string("{\"a\":1}\0", 8),
                                     "{'a':1}",
                                     "{\"a\":.5}",
                                     "{\"a\":+1}",
                                     "\xef\xbb",
                                     deep_array,
                                     deep_object,
                                     many};
  for (const auto& text : bad) {
    auto r = parse_json(text);
    ASSERT_FALSE(r.has_value()) << text.substr(0, 60);
    EXPECT_EQ(r.error().status, 400);
    EXPECT_EQ(r.error().code, "invalid_json");
    EXPECT_EQ(r.error().message.find("exception"), std::string::npos);
  }
}

TEST(json_input, reads_what_is_odd_but_valid) {
  EXPECT_EQ(parse_json("{\"a\":1,\"a\":2}")->at("a"), 2);  // documented: the last one wins
  EXPECT_EQ(parse_json("{\"a\":\"\\u0000\"}")->at("a").get<std::string>(), std::string(1, '\0'));
  EXPECT_EQ(parse_json("{\"a\":\"[[[[{{{{\\\"\"}")->at("a"), "[[[[{{{{\"");
  EXPECT_EQ(parse_json("{\"a\":1e308}")->at("a"), 1e308);
  std::string exactly = "{\"a\":" + std::string(63, '[') + std::string(63, ']') + "}";
  EXPECT_TRUE(parse_json(exactly));
  EXPECT_TRUE(parse_json("{\"a\":\"" + std::string(4 << 20, 'x') + "\"}"));
}

TEST(json_input, integers_are_exact) {
  auto read = [](const char* text) { return as_integer(nlohmann::json::parse(text), -5, 10); };
  EXPECT_EQ(read("10"), 10);
  EXPECT_EQ(read("-5"), -5);
  EXPECT_EQ(read("3.0"), 3);
  for (const char* bad : {"11", "-6", "3.5", "1e300", "-1e300", "18446744073709551615", "\"3\"",
                          "true", "null", "[]", "9223372036854775808", "-9223372036854775808"})
    EXPECT_FALSE(read(bad)) << bad;
  const auto full = [](const char* text) {
    return as_integer(nlohmann::json::parse(text), std::numeric_limits<std::int64_t>::min(),
                      std::numeric_limits<std::int64_t>::max());
  };
  EXPECT_EQ(full("9223372036854775807"), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(full("-9223372036854775808"), std::numeric_limits<std::int64_t>::min());
  EXPECT_FALSE(full("9223372036854775808"));
  EXPECT_FALSE(full("18446744073709551616"));
  EXPECT_FALSE(full("9007199254740994.0"));
}

}  // namespace
}  // namespace troupe::api
