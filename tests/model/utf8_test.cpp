#include <gtest/gtest.h>

#include <random>

#include "model/tokenizer.hpp"
#include "model/unicode.hpp"

namespace troupe::model {
namespace {

std::string stream_whole(std::string_view bytes) {
  utf8_stream stream;
  std::string out = stream.push(bytes);
  return out += stream.flush();
}

TEST(utf8, accepts_what_the_standard_accepts) {
  for (const std::string_view good :
       {"a", "\u00e9", "\u0800", "\ud7ff", "\ue000", "\U00010000", "\U0010ffff"})
    EXPECT_EQ(valid_utf8_length(good), good.size());
  // Overlong, surrogate, above U+10FFFF, lone continuation, never a lead.
  for (const std::string_view bad :
       {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80", "\xFF", "\xF5"})
    EXPECT_EQ(valid_utf8_length(bad), 0u);
  EXPECT_EQ(valid_utf8_length("0123456789\xFF"), 10u);
}

TEST(utf8, reads_and_writes_every_scalar_value) {
  for (std::uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    ASSERT_EQ(valid_utf8_length(text), text.size()) << c;
    ASSERT_EQ(first_code_point(text).value, c);
    ASSERT_EQ(first_code_point(text).length, text.size());
  }
}

TEST(utf8_stream, holds_incomplete_sequences) {
  utf8_stream stream;
  EXPECT_EQ(stream.push("a\xE4"), "a");
  EXPECT_EQ(stream.push("\xBD"), "");
  EXPECT_EQ(stream.push("\xA0z"), "\xE4\xBD\xA0z");
  EXPECT_EQ(stream.push("\xF0\x9F\x99"), "");
  EXPECT_EQ(stream.flush(), replacement_character);
  EXPECT_EQ(stream.flush(), "");
  EXPECT_EQ(stream.push("b"), "b");
}

TEST(utf8_stream, replaces_each_maximal_subpart) {
  // The example of Unicode 15, table 3-11: 61 F1 80 80 E1 80 C2 62 80 63 80 BF 64.
  const std::string r(replacement_character);
  EXPECT_EQ(stream_whole("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(stream_whole("\xED\xA0\x80"), r + r + r);
}

TEST(utf8_stream, does_not_depend_on_how_bytes_arrive) {
  std::mt19937_64 random(3);
  const std::string_view pieces[] = {"a",    "\xC3\xA9", "\xE4\xBD\xA0", "\xF0\x9F\x99\x82",
                                     "\x80", "\xE4",     "\xF0\x9F",     "\xED\xA0",
                                     "\xFF", ""};
  for (int round = 0; round < 5000; ++round) {
    std::string bytes;
    for (std::size_t n = random() % 12; n > 0; --n) bytes += pieces[random() % std::size(pieces)];
    const std::string whole = stream_whole(bytes);
    EXPECT_EQ(valid_utf8_length(whole), whole.size());
    utf8_stream stream;
    std::string split;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t length = random() % 4;
      const std::string part = stream.push(std::string_view(bytes).substr(at, length));
      EXPECT_EQ(valid_utf8_length(part), part.size());
      split += part;
      at += std::min(length, bytes.size() - at);
    }
    split += stream.flush();
    EXPECT_EQ(split, whole);
    if (valid_utf8_length(bytes) == bytes.size()) {
      EXPECT_EQ(whole, bytes);
    }
  }
}

}  // namespace
}  // namespace troupe::model
