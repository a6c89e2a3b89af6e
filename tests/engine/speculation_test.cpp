// Speculation: the guesses, what they cost, and that no guess changes an answer.
#include <gtest/gtest.h>

#include <random>

#include "engine/drafts.hpp"
#include "engine/pass_costs.hpp"
#include "engine/suffix_automaton.hpp"
#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

// The longest end of the text that occurs earlier, by trying all.
std::uint32_t longest_by_trying(std::span<const token_id> text) {
  const auto n = static_cast<std::uint32_t>(text.size());
  for (std::uint32_t length = n - 1; length > 0; --length)
    for (std::uint32_t end = length; end < n; ++end)
      if (std::equal(text.end() - length, text.end(), text.begin() + (end - length))) return length;
  return 0;
}

TEST(suffix_automaton, finds_the_longest_end_that_occurred_before) {
  std::mt19937 random(5);
  for (const std::uint32_t vocab : {1u, 2u, 3u, 9u, 200u}) {
    suffix_automaton a;
    std::vector<token_id> text;
    for (int i = 0; i < 300; ++i) {
      text.push_back(random() % vocab);
      if (i % 60 > 40) text.back() = text[text.size() / 2];  // copies
      a.append(text.back());
      const auto m = a.longest();
      ASSERT_EQ(m.length, longest_by_trying(text)) << vocab << " at " << i;
      if (m.length == 0) continue;
      ASSERT_LT(m.next, text.size());
      ASSERT_GE(m.next, m.length);
      ASSERT_TRUE(
          std::equal(text.end() - m.length, text.end(), text.begin() + (m.next - m.length)));
    }
  }
}

TEST(suffix_automaton, memory_grows_with_the_text_and_not_faster) {
  std::mt19937 random(6);
  suffix_automaton words, cycle;
  for (std::uint32_t i = 0; i < 20'000; ++i) {
    words.append(random() % 3000);
    cycle.append(i % 7);
  }
  EXPECT_LT(words.bytes() / 20'000, 160u);
  EXPECT_LT(cycle.bytes() / 20'000, 160u);
  EXPECT_EQ(cycle.longest().length, 20'000u - 7);
}

guess propose(const drafts& d, std::span<const token_id> tokens, std::uint32_t most) {
  std::vector<guess> all;
  d.propose(tokens, most, hit_rates(), {}, all);
  return all.empty() ? guess() : all[0];
}

TEST(drafts, copy_what_followed_and_go_on_with_the_copy) {
  hit_rates usual;
  drafts d;
  std::vector<token_id> text{1, 2, 3, 4, 5, 9, 9, 9, 1, 2, 3};
  d.follow(text, 100, 100, usual);
  EXPECT_EQ(propose(d, text, 2).tokens, (std::vector<token_id>{4, 5}));
  drafts cycle;
  text = {7, 8, 7, 8, 7, 8, 7, 8};
  cycle.follow(text, 100, 100, usual);
  EXPECT_EQ(propose(cycle, text, 5).tokens, (std::vector<token_id>{7, 8, 7, 8, 7}));
  const auto g = propose(cycle, text, 5);
  EXPECT_TRUE(std::is_sorted(g.chances.rbegin(), g.chances.rend()));
  // Behind: nothing is said about a text that is not followed to its end.
  text.push_back(7);
  EXPECT_TRUE(propose(cycle, text, 5).tokens.empty());
}

TEST(drafts, an_offer_counts_where_it_fits) {
  drafts d;
  hit_rates usual;
  const std::vector<token_id> text{10, 11, 12, 13};
  d.follow(text, 4, 100, usual);
  d.offer(2, {12, 13, 14, 15});
  EXPECT_EQ(propose(d, text, 8).tokens, (std::vector<token_id>{14, 15}));
  d.offer(2, {12, 99, 14, 15});  // another history
  EXPECT_TRUE(propose(d, text, 8).tokens.empty());
  d.offer(5, {14});  // a gap
  EXPECT_TRUE(propose(d, text, 8).tokens.empty());
  d.offer(0, {10, 11});  // over
  EXPECT_TRUE(propose(d, text, 8).tokens.empty());
}

TEST(drafts, chances_learn_from_the_text) {
  hit_rates usual;
  drafts right, wrong;
  std::mt19937 random(7);
  std::vector<token_id> cycle, noise;
  for (std::uint32_t i = 0; i < 400; ++i) {
    cycle.push_back(i % 10);
    noise.push_back(random() % 10);
    right.follow(cycle, 20, 100, usual);
  }
  const float high = propose(right, cycle, 4).chances.at(1);
  for (std::size_t i = 1; i <= noise.size(); ++i)
    wrong.follow(std::span(noise).first(i), 20, 100, usual);
  const auto low = propose(wrong, noise, 4);
  EXPECT_GT(high, 0.95f);
  EXPECT_TRUE(low.chances.empty() || low.chances[0] < 0.35f);
}

TEST(pass_costs, follow_measurements_and_the_machine) {
  pass_costs c;
  EXPECT_FALSE(c.known(1));
  EXPECT_EQ(c.predict(1, 0), 0);
  for (int i = 0; i < 20; ++i) c.observe(1, 0.004), c.observe(5, 0.006);
  EXPECT_NEAR(c.predict(1, 0), 0.004, 1e-5);
  EXPECT_NEAR(c.predict(3, 0), 0.005, 1e-5);
  EXPECT_NEAR(c.predict(9, 0.001), 0.010, 1e-5);
  c.observe(1, 4.0);  // the machine paused
  EXPECT_LT(c.predict(1, 0), 0.005);
  for (int i = 0; i < 200; ++i) c.observe(1, 0.008);  // everything takes twice as long now
  EXPECT_GT(c.predict(5, 0), 0.009);
  for (int i = 0; i < 1001; ++i) c.observe(1, 0.008);
  EXPECT_FALSE(c.known(5)) << "too old to be trusted";
  EXPECT_FALSE(c.known(pass_costs::max_rows + 1));
}

// An engine that is told every token in advance, with mistakes.
struct told {
  explicit told(generation_request r, int wrong_each, std::uint32_t max_tokens = 4,
                std::uint32_t blocks = 64)
      : fixture(blocks, {}, [&](engine_options& o) {
          o.speculation.always = true;
          o.speculation.max_tokens = max_tokens;
        }) {
    expected = run_alone(r);
    std::vector<token_id> tokens = expected.ids();
    for (std::size_t i = 0; i < tokens.size(); ++i)
      if (wrong_each > 0 && static_cast<int>(i) % wrong_each == wrong_each - 1)
        tokens[i] = (tokens[i] + 1) % 40;
    const auto first = static_cast<std::uint32_t>(r.prompt.size());
    const request_id id = r.id;
    EXPECT_TRUE(fixture.engine->add(std::move(r), fixture.now));
    while (fixture.engine->has_work()) {
      const auto done = static_cast<std::uint32_t>(fixture.of(raw(id)).tokens.size());
      if (done < tokens.size())
        fixture.engine->offer_draft(
            id, 0, first + done,
            {tokens.begin() + static_cast<std::ptrdiff_t>(done), tokens.end()});
      fixture.step();
      ++steps;
    }
    got = fixture.of(raw(id));
  }
  void expect_same() const {
    ASSERT_TRUE(got.end);
    EXPECT_EQ(got.ids(), expected.ids());
    ASSERT_EQ(got.tokens.size(), expected.tokens.size());
    for (std::size_t i = 0; i < got.tokens.size(); ++i) {
      EXPECT_EQ(got.tokens[i].index, i);
      EXPECT_EQ(got.tokens[i].logprob, expected.tokens[i].logprob);
      EXPECT_EQ(got.tokens[i].top.size(), expected.tokens[i].top.size());
    }
    EXPECT_EQ(got.end->reason, expected.end->reason);
    EXPECT_EQ(got.end->usage.completion_tokens, expected.end->usage.completion_tokens);
  }
  engine_fixture fixture;
  answer expected, got;
  int steps = 0;
};

generation_request long_answer(std::uint64_t id, std::uint32_t max_tokens) {
  auto r = make_request(id, make_prompt(id, 9), max_tokens);
  r.sampling.ignore_eos = true;
  return r;
}

TEST(speculation, right_guesses_save_passes) {
  const told t(long_answer(1, 41), 0);
  t.expect_same();
  // One pass for the prompt, then five tokens a pass.
  EXPECT_EQ(t.steps, 1 + 40 / 5);
  const auto stats = t.fixture.engine->stats();
  EXPECT_EQ(stats.speculation.drafted, stats.speculation.accepted);
  EXPECT_EQ(stats.decode_tokens, 40u);
  EXPECT_EQ(stats.blocks_free + stats.blocks_cached, 64u);
}

TEST(speculation, wrong_guesses_change_nothing) {
  for (int wrong_each : {1, 2, 3, 5, 7}) {
    SCOPED_TRACE(wrong_each);
    const told t(long_answer(2, 37), wrong_each);
    t.expect_same();
    const auto s = t.fixture.engine->stats().speculation;
    EXPECT_GT(s.drafted, s.accepted);
  }
}

TEST(speculation, works_under_every_way_to_sample) {
  std::mt19937 random(11);
  for (std::uint64_t id = 1; id <= 60; ++id) {
    SCOPED_TRACE(id);
    auto r = long_answer(id, 1 + random() % 40);
    auto& p = r.sampling;
    p.seed = id;
    p.sequence_index = random() % 3;
    p.temperature = random() % 3 == 0 ? 0.0f : 0.9f;
    if (random() % 2) p.top_p = 0.8f;
    if (random() % 3 == 0) p.top_k = 7;
    if (random() % 4 == 0) p.min_p = 0.05f;
    if (random() % 3 == 0) p.repetition_penalty = 1.3f;
    if (random() % 3 == 0) p.presence_penalty = 0.5f;
    if (random() % 3 == 0) p.frequency_penalty = 0.5f;
    if (random() % 3 == 0) p.logit_bias = {{5, 2.0f}, {6, -100.0f}};
    if (random() % 2) p.logprobs = 3;
    if (random() % 2) p.ignore_eos = false;
    if (random() % 3 == 0) p.stop_token_ids = {static_cast<token_id>(random() % 40)};
    if (random() % 3 == 0) p.min_tokens = p.max_tokens / 2;
    told(r, 1 + static_cast<int>(random() % 6)).expect_same();
  }
}

TEST(speculation, ends_with_the_context) {
  for (std::uint32_t max_tokens = 1; max_tokens < 12; ++max_tokens) {
    SCOPED_TRACE(max_tokens);
    told(long_answer(3, max_tokens), 0, 8).expect_same();
  }
}

TEST(speculation, takes_no_block_that_others_need) {
  // Blocks for the sequence and two more: guesses get what is left, and give back what they did not use.
  const told t(long_answer(4, 40), 3, 8, 15);
  t.expect_same();
  EXPECT_EQ(t.got.end->usage.preemptions, 0u);
}

TEST(speculation, nonsense_is_no_guess) {
  engine_fixture f(64, {}, [](engine_options& o) { o.speculation.always = true; });
  const auto r = long_answer(5, 20);
  ASSERT_TRUE(f.engine->add(r, f.now));
  while (f.engine->has_work()) {
    f.engine->offer_draft(r.id, 0, 9, {1'000'000, 3});
    f.engine->offer_draft(r.id, 1, 0, {3});
    f.engine->offer_draft(request_id{99}, 0, 0, {3});
    f.engine->offer_draft(r.id, 0, ~0u, {3, 4, 5});
    f.step();
  }
  EXPECT_EQ(f.of(5).ids(), run_alone(r).ids());
}

// Measurements of a draft that is hardly ever right must still have its guesses checked.
TEST(speculation, always_means_however_often_guesses_were_wrong) {
  engine_fixture f(64, {}, [](engine_options& o) {
    o.speculation.always = true;
    o.speculation.from_text = false;
  });
  for (std::uint64_t id = 1; id <= 4; ++id) {
    const auto before = f.engine->stats().speculation;
    const auto r = long_answer(id, 100);
    const auto right = run_alone(r).ids();
    ASSERT_TRUE(f.engine->add(r, f.now));
    while (f.engine->has_work()) {
      const auto done = f.of(id).tokens.size();
      const token_id wrong = right[std::min(done, right.size() - 1)] == 3 ? 4 : 3;
      f.engine->offer_draft(r.id, 0, static_cast<std::uint32_t>(9 + done), {wrong});
      f.step();
    }
    EXPECT_EQ(f.of(id).ids(), right);
    const auto after = f.engine->stats().speculation;
    EXPECT_GT(after.drafted - before.drafted, 90u) << "answer " << id;
    EXPECT_EQ(after.accepted, before.accepted);
  }
}

// Time as a device takes it: a part for each pass, a part for each row.
struct timed {
  timed(double pass_ms, double row_ms)
      : fixture(256, {}, [this, pass_ms, row_ms](engine_options& o) {
          o.pass_clock = [this, pass_ms, row_ms] {
            // Begin, start, end and end again of a pass: rows are known from the second call on.
            const double ms = pass_ms * passes() + row_ms * fixture.runner.total_rows();
            return time_point(std::chrono::nanoseconds(static_cast<std::int64_t>(ms * 1e6)));
          };
        }) {}
  double passes() { return fixture.runner.num_passes(); }
  double run(std::uint64_t first_id, int sequences, int wrong_each) {
    std::map<request_id, std::vector<token_id>> all;
    for (int i = 0; i < sequences; ++i) {
      auto r = long_answer(first_id + static_cast<std::uint64_t>(i), 120);
      all[r.id] = run_alone(r).ids();
      for (std::size_t k = 0; k < all[r.id].size(); ++k)
        if (wrong_each > 0 && static_cast<int>(k) % wrong_each == 0) all[r.id][k] = 39;
      EXPECT_TRUE(fixture.engine->add(r, fixture.now));
    }
    while (fixture.engine->has_work()) {
      for (auto& [id, tokens] : all) {
        const auto done = fixture.of(raw(id)).tokens.size();
        fixture.engine->offer_draft(
            id, 0, static_cast<std::uint32_t>(9 + done),
            {tokens.begin() + static_cast<std::ptrdiff_t>(done), tokens.end()});
      }
      fixture.step();
    }
    const auto s = fixture.engine->stats();
    return static_cast<double>(s.speculation.drafted) / static_cast<double>(s.decode_tokens);
  }
  engine_fixture fixture;
};

TEST(speculation, drafts_where_rows_are_cheap_and_not_where_they_cost) {
  EXPECT_GT(timed(4, 0.2).run(1, 1, 0), 0.6);  // nearly free rows, right guesses
  EXPECT_LT(timed(0.1, 4).run(1, 1, 0), 0.1);  // a row costs what a pass costs: nothing to gain
  EXPECT_LT(timed(4, 1).run(1, 1, 1), 0.15);   // wrong guesses
  EXPECT_LT(timed(1, 3).run(1, 8, 3), 0.1);    // eight at once fill the device
}

}  // namespace
}  // namespace troupe::engine::testing
