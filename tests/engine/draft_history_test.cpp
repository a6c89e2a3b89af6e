// Guesses from earlier answers: what is found, how much memory it takes, and who never sees it.
#include "engine/draft_history.hpp"

#include <gtest/gtest.h>

#include <random>

#include "engine/drafts.hpp"
#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

std::vector<token_id> noise(std::uint32_t seed, std::size_t length) {
  std::mt19937 random(seed);
  std::vector<token_id> text;
  for (std::size_t i = 0; i < length; ++i) text.push_back(random() % 5000);
  return text;
}

std::vector<token_id> after(const recent_answers& a, const recent_answers::place& at) {
  const auto rest = a.after(at);
  return {rest.begin(), rest.end()};
}

TEST(recent_answers, say_what_followed) {
  recent_answers a(4096);
  const auto first = noise(1, 100), second = noise(2, 100);
  a.add(first);
  a.add(second);
  recent_answers::place at;
  // Three tokens are too few, four are enough; the answer's end ends the guess.
  a.follow(at, std::span(first).subspan(40, 3));
  EXPECT_TRUE(after(a, at).empty());
  a.follow(at, std::span(first).subspan(40, 4));
  EXPECT_EQ(at.length, 4u);
  EXPECT_EQ(after(a, at), std::vector<token_id>(first.begin() + 44, first.end()));
  // The copy goes on, token by token, across what is found.
  for (std::size_t end = 45; end <= 100; ++end) {
    a.follow(at, std::span(first).subspan(40, end - 40));
    EXPECT_EQ(at.length, end - 40);
  }
  EXPECT_TRUE(after(a, at).empty());
  auto text = std::vector<token_id>(second.begin(), second.begin() + 20);
  text.insert(text.begin(), 4999);
  a.follow(at, text);
  EXPECT_EQ(after(a, at), std::vector<token_id>(second.begin() + 20, second.end()));
  text.push_back(second[20] + 1);
  a.follow(at, text);
  EXPECT_TRUE(after(a, at).empty()) << "another token came";
}

TEST(recent_answers, the_longer_and_then_the_later_one_is_meant) {
  recent_answers a(4096);
  const std::vector<token_id> tail{1, 2, 3, 4};
  std::vector<token_id> one = noise(3, 20), other = noise(4, 20);
  const std::vector<token_id> text = [&] {
    auto t = one;
    t.insert(t.end(), tail.begin(), tail.end());
    return t;
  }();
  one.insert(one.end(), {1, 2, 3, 4, 100, 101});
  other.insert(other.end(), {1, 2, 3, 4, 200, 201});
  a.add(one);
  a.add(other);
  recent_answers::place at;
  a.follow(at, tail);
  EXPECT_EQ(after(a, at), (std::vector<token_id>{200, 201}));
  a.follow(at, text);
  EXPECT_EQ(after(a, at), (std::vector<token_id>{100, 101}));
}

TEST(recent_answers, forget_the_older_half_when_full) {
  recent_answers a(4096);
  recent_answers::place stale;
  const auto first = noise(10, 300);
  a.add(first);
  a.follow(stale, std::span(first).first(8));
  EXPECT_FALSE(after(a, stale).empty());
  for (std::uint32_t i = 0; i < 100; ++i) {
    const auto next = noise(20 + i, 300);
    a.add(next);
    EXPECT_LE(a.bytes(), 4096 * 40u);
    recent_answers::place at;
    a.follow(at, std::span(next).first(20));
    EXPECT_EQ(after(a, at), std::vector<token_id>(next.begin() + 20, next.end())) << i;
  }
  EXPECT_TRUE(after(a, stale).empty()) << "a place of text that is gone";
  recent_answers::place again;
  a.follow(again, std::span(first).first(8));
  EXPECT_TRUE(after(a, again).empty());
  a.add(noise(5, 10'000));  // longer than all that may be kept: its end is
  EXPECT_LE(a.bytes(), 4096 * 40u);
}

TEST(draft_history, keeps_within_its_memory_and_drops_who_asked_longest_ago) {
  draft_history h(256 << 10);
  const auto mine = noise(1, 200);
  h.add("a", "", mine);
  const auto held = h.of("a", "");
  recent_answers::place at;
  held->follow(at, std::span(mine).first(20));
  EXPECT_FALSE(after(*held, at).empty());
  for (int i = 0; i < 200; ++i) {
    h.add("tenant" + std::to_string(i), "", noise(i + 2, 500));
    ASSERT_LE(h.bytes(), 256u << 10);
  }
  EXPECT_GT(h.size(), 1u);
  EXPECT_TRUE(after(*held, at).empty()) << "whoever still holds it finds nothing";
  EXPECT_EQ(draft_history(0).of("a", ""), nullptr);
}

struct remembering {
  explicit remembering(std::uint64_t bytes = 1 << 20)
      : fixture(128, {}, [bytes](engine_options& o) {
          o.speculation.always = true;
          o.speculation.history_bytes = bytes;
        }) {}
  // The tokens that were guessed from history for it.
  std::uint64_t run(std::uint64_t id, const std::string& tenant, const std::string& salt) {
    auto r = make_request(id, make_prompt(1, 9), 60);  // the same question each time
    r.sampling.ignore_eos = true;
    r.tenant = tenant;
    r.cache_salt = salt;
    const auto before = fixture.engine->stats().speculation;
    const auto expected = run_alone(r);
    EXPECT_TRUE(fixture.engine->add(std::move(r), fixture.now));
    fixture.run();
    EXPECT_EQ(fixture.of(id).ids(), expected.ids());
    const auto after = fixture.engine->stats().speculation;
    EXPECT_EQ(fixture.of(id).end->reason, finish_reason::length);
    accepted = after.history_accepted - before.history_accepted;
    return after.history_drafted - before.history_drafted;
  }
  engine_fixture fixture;
  std::uint64_t accepted = 0;
};

TEST(draft_history, the_same_question_of_the_same_tenant_is_guessed) {
  remembering r;
  EXPECT_EQ(r.run(1, "a", ""), 0u);
  EXPECT_GE(r.run(2, "a", ""), 50u);
  EXPECT_GE(r.accepted, 50u);
  EXPECT_LT(r.fixture.runner.num_passes(), 100u);
}

TEST(draft_history, nobody_else_gets_guesses_of_it) {
  remembering r;
  EXPECT_EQ(r.run(1, "a", "x"), 0u);
  EXPECT_EQ(r.run(2, "b", "x"), 0u);
  EXPECT_EQ(r.run(3, "a", ""), 0u);
  EXPECT_EQ(r.run(4, "a", "y"), 0u);
  EXPECT_EQ(r.run(5, "ax", ""), 0u);
  EXPECT_EQ(r.run(6, "", "ax"), 0u);
  EXPECT_EQ(r.run(7, "", ""), 0u);
  EXPECT_GT(r.run(8, "a", "x"), 0u);
}

TEST(draft_history, is_off_unless_asked_for) {
  remembering r(0);
  r.run(1, "a", "");
  EXPECT_EQ(r.run(2, "a", ""), 0u);
}

}  // namespace
}  // namespace troupe::engine::testing
