#include "api/stop_matcher.hpp"

#include <gtest/gtest.h>

#include <random>

namespace troupe::api {
namespace {

// The definition, slowly: the match that ends first wins, of those the longest.
std::string expected(const std::string& text, const std::vector<std::string>& stops, bool include,
                     bool& matched) {
  matched = false;
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const auto& s : stops)
      if (s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0)
        longest = std::max(longest, s.size());
    if (longest > 0) {
      matched = true;
      return text.substr(0, include ? end : end - longest);
    }
  }
  return text;
}

TEST(stop_matcher, is_the_same_for_every_split) {
  std::mt19937 random(7);
  auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  int matches = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text;
    for (int i = pick(30); i >= 0; --i) text += static_cast<char>('a' + pick(3));
    std::vector<std::string> stops;
    for (int i = pick(3); i >= 0; --i) {
      std::string s;
      for (int k = pick(5); k >= 0; --k) s += static_cast<char>('a' + pick(3));
      stops.push_back(s);
    }
    const bool include = pick(2) == 0;
    bool matched = false;
    const std::string want = expected(text, stops, include, matched);
    matches += matched;
    stop_matcher m(stops, include);
    std::string got;
    for (std::size_t at = 0; at < text.size();) {
      const auto n = std::min<std::size_t>(1 + static_cast<std::size_t>(pick(4)), text.size() - at);
      got += m.push(std::string_view(text).substr(at, n));
      // Nothing that was given out may have to be taken back.
      ASSERT_EQ(want.substr(0, got.size()), got);
      at += n;
    }
    if (!m.matched()) got += m.flush();
    ASSERT_EQ(got, want) << "text " << text << " stop " << stops.front();
    ASSERT_EQ(m.matched(), matched);
  }
  EXPECT_GT(matches, 500);
}

TEST(stop_matcher, withholds_only_what_may_become_a_stop) {
  stop_matcher m({"\n\nUser:"}, false);
  EXPECT_EQ(m.push("Hello\n"), "Hello");
  EXPECT_EQ(m.push("x"), "\nx");
  EXPECT_EQ(m.push("\n\nUse"), "");
  EXPECT_EQ(m.withheld(), 5u);
  EXPECT_EQ(m.push("d"), "\n\nUsed");
  EXPECT_EQ(m.push(".\n\nUser: and more"), ".");
  EXPECT_TRUE(m.matched());
  EXPECT_EQ(m.push("anything"), "");
}

TEST(stop_matcher, stays_linear_on_repetitive_stops) {
  stop_matcher m({std::string(1024, 'a') + "b"}, false);
  std::size_t out = 0;
  const std::string piece(1 << 16, 'a');
  for (int i = 0; i < 32; ++i) out += m.push(piece).size();
  EXPECT_EQ(out + m.withheld(), piece.size() * 32);
  EXPECT_EQ(m.withheld(), 1024u);
}

}  // namespace
}  // namespace troupe::api
