// The draft's engine: what it guesses, how it follows, and that a target with it answers as without.
#include <gtest/gtest.h>

#include <random>

#include "engine/draft_engine.hpp"
#include "engine/draft_trial.hpp"
#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

struct draft_fixture {
  explicit draft_fixture(std::uint32_t blocks,
                         const std::function<void(draft_options&)>& change = {})
      : runner(blocks) {
    draft_options o;
    o.num_blocks = blocks;
    o.vocab_size = runner.vocab_size();
    o.max_model_len = 200;
    o.max_num_seqs = 8;
    o.max_batch_tokens = 64;
    o.ahead = 6;
    o.end_of_generation = {end_of_text};
    if (change) change(o);
    auto made = draft_engine::make(runner, o);
    EXPECT_TRUE(made);
    engine = std::move(*made);
  }
  std::optional<std::uint32_t> follow(std::uint64_t key, std::uint32_t first,
                                      std::vector<token_id> tokens,
                                      const draft_engine::beginning* start = nullptr) {
    auto r = engine->follow(key, first, tokens, start);
    EXPECT_TRUE(r);
    EXPECT_EQ(engine->check_invariants(), "");
    return r ? *r : std::nullopt;
  }
  // The latest run of each sequence, when there is nothing left to do.
  std::map<std::uint64_t, draft_run> rest(int limit = 500) {
    std::map<std::uint64_t, draft_run> last;
    for (; engine->has_work() && limit > 0; --limit) {
      auto runs = engine->step();
      EXPECT_TRUE(runs);
      EXPECT_EQ(engine->check_invariants(), "");
      if (runs)
        for (auto& r : *runs) last[r.key] = r;
    }
    EXPECT_GT(limit, 0) << "the draft does not come to rest";
    return last;
  }
  fake_runner runner;
  std::unique_ptr<draft_engine> engine;
};

draft_engine::beginning greedy(std::size_t num_prompt, std::uint32_t max_tokens = 100) {
  draft_engine::beginning b;
  b.num_prompt = static_cast<std::uint32_t>(num_prompt);
  b.sampling.temperature = 0;
  b.sampling.max_tokens = max_tokens;
  b.sampling.ignore_eos = true;
  return b;
}

std::vector<token_id> part(const std::vector<token_id>& v, std::size_t from, std::size_t count) {
  const auto begin = v.begin() + static_cast<std::ptrdiff_t>(from);
  return {begin, begin + static_cast<std::ptrdiff_t>(std::min(count, v.size() - from))};
}

// What the fake device says follows a prompt.
std::vector<token_id> truth(const std::vector<token_id>& prompt, const draft_engine::beginning& b) {
  generation_request r;
  r.id = request_id{1};
  r.prompt = prompt;
  r.sampling = b.sampling;
  return run_alone(r).ids();
}

TEST(draft_engine, goes_ahead_as_the_model_itself_would) {
  draft_fixture f(64, [](draft_options& o) { o.ahead = 5; });
  const auto prompt = make_prompt(3, 21);
  const auto start = greedy(prompt.size());
  const auto expected = truth(prompt, start);
  EXPECT_FALSE(f.follow(7, 0, prompt, &start));
  auto runs = f.rest();
  // The fake device is never sure of anything, so that a run ends when it is doubtful.
  ASSERT_FALSE(runs[7].tokens.empty());
  EXPECT_EQ(runs[7].first, 21u);
  EXPECT_EQ(runs[7].tokens, part(expected, 0, runs[7].tokens.size()));
  EXPECT_EQ(runs[7].sureness.size(), runs[7].tokens.size());
}

TEST(draft_engine, follows_what_the_target_says_and_heals) {
  draft_fixture f(64);
  const auto prompt = make_prompt(4, 10);
  const auto start = greedy(prompt.size());
  EXPECT_EQ(f.follow(1, 5, {1, 2}), 0u) << "unknown: from the beginning";
  EXPECT_EQ(f.follow(1, 0, prompt), 0u) << "without its sampling it is not known either";
  EXPECT_FALSE(f.follow(1, 0, prompt, &start));
  f.rest();
  EXPECT_EQ(f.follow(1, 14, {5}), 10u) << "a gap";
  std::vector<token_id> all = prompt;
  std::mt19937 random(9);
  for (int i = 0; i < 60; ++i) {
    // Sometimes what was drafted, sometimes else, sometimes several, sometimes told twice.
    const auto expected = truth(all, greedy(all.size(), 8));
    std::vector<token_id> said = part(expected, 0, 1 + random() % 4);
    if (random() % 3 == 0) said.back() = (said.back() + 1) % 40;
    const auto first = static_cast<std::uint32_t>(all.size());
    all.insert(all.end(), said.begin(), said.end());
    EXPECT_FALSE(f.follow(1, first, said));
    if (random() % 4 == 0) {
      EXPECT_FALSE(f.follow(1, first, said));
    }
    if (random() % 3 == 0) continue;
    const auto runs = f.rest();
    if (runs.empty()) continue;
    const draft_run& r = runs.at(1);
    ASSERT_EQ(r.first, all.size());
    EXPECT_EQ(r.tokens, part(truth(all, greedy(all.size(), 8)), 0, r.tokens.size())) << i;
  }
  const auto s = f.engine->stats();
  EXPECT_GT(s.agreed, 0u);
  EXPECT_GT(s.cut, 0u);
  f.engine->drop(1);
  EXPECT_EQ(f.engine->stats().blocks_free, 64u);
}

TEST(draft_engine, forgets_the_least_recent_and_says_so) {
  draft_fixture f(12, [](draft_options& o) { o.max_known = 3; });  // 48 tokens
  for (std::uint64_t key = 1; key <= 5; ++key) {
    const auto prompt = make_prompt(key, 17);
    const auto start = greedy(prompt.size());
    EXPECT_FALSE(f.follow(key, 0, prompt, &start));
    f.rest();
  }
  EXPECT_EQ(f.engine->stats().sequences, 3u);
  EXPECT_GT(f.engine->stats().evictions, 0u);
  EXPECT_EQ(f.follow(1, 17, {3}), 0u) << "forgotten";
  EXPECT_FALSE(f.follow(3, 17, {3})) << "remembered, if not its KV";
  f.rest();
}

TEST(draft_engine, comes_to_rest_when_nothing_fits) {
  draft_fixture f(4);  // 16 tokens
  const auto prompt = make_prompt(1, 30);
  const auto start = greedy(prompt.size());
  EXPECT_FALSE(f.follow(1, 0, prompt, &start));
  EXPECT_TRUE(f.rest().empty());
  EXPECT_FALSE(f.engine->has_work());
}

TEST(draft_engine, refuses_nonsense) {
  draft_fixture f(16);
  const auto start = greedy(2);
  EXPECT_FALSE(f.engine->follow(1, 0, std::vector<token_id>{3, 40}, &start));
  auto bad = start;
  bad.sampling.top_p = -3;
  EXPECT_FALSE(f.engine->follow(1, 0, std::vector<token_id>{3, 4}, &bad));
  EXPECT_FALSE(f.follow(1, 0, make_prompt(1, 201), &start)) << "longer than its context";
  EXPECT_EQ(f.engine->stats().sequences, 0u);
  f.engine->drop(99);
}

// A target and a draft, messages between them late, lost, doubled or wrong: the answer is the plain one.
void run_pair(std::uint64_t seed, bool lossy) {
  std::mt19937 random(static_cast<unsigned>(seed));
  engine_fixture target(64, {}, [](engine_options& o) { o.speculation.always = true; });
  draft_fixture draft(40);
  std::map<std::uint64_t, generation_request> requests;
  std::map<std::uint64_t, std::uint32_t> told;
  for (std::uint64_t id = 1; id <= 3; ++id) {
    auto r = make_request(id, make_prompt(seed * 10 + id, 3 + random() % 20), 1 + random() % 40);
    auto& p = r.sampling;
    p.seed = seed;
    p.temperature = random() % 2 ? 0.0f : 1.1f;
    if (random() % 2) p.top_p = 0.9f;
    if (random() % 3 == 0) p.repetition_penalty = 1.3f;
    if (random() % 3 == 0) p.frequency_penalty = 0.4f;
    p.ignore_eos = random() % 2 == 0;
    requests[id] = r;
    ASSERT_TRUE(target.engine->add(r, target.now));
  }
  std::vector<draft_run> late;
  while (target.engine->has_work()) {
    for (auto& [id, r] : requests) {
      std::vector<token_id> all = r.prompt;
      for (token_id t : target.of(id).ids()) all.push_back(t);
      if (lossy && random() % 4 == 0) continue;  // not told in time
      const draft_engine::beginning start{static_cast<std::uint32_t>(r.prompt.size()), r.sampling};
      const auto need =
          draft.follow(id, told[id], part(all, told[id], 99), told[id] == 0 ? &start : nullptr);
      told[id] = need ? *need : static_cast<std::uint32_t>(all.size());
      if (lossy && random() % 30 == 0) draft.engine->drop(id);  // it restarted
    }
    for (auto i = lossy ? random() % 5 : 9; i > 0 && draft.engine->has_work(); --i) {
      auto runs = draft.engine->step();
      ASSERT_TRUE(runs);
      for (auto& run : *runs) late.push_back(std::move(run));
    }
    while (!late.empty()) {
      if (lossy && random() % 3 == 0) break;
      draft_run run = std::move(late.front());
      late.erase(late.begin());
      if (lossy && random() % 6 == 0) run.tokens[0] = random() % 50;
      if (lossy && random() % 8 == 0) run.first += random() % 3;
      target.engine->offer_draft(request_id{run.key}, 0, run.first, run.tokens, run.sureness);
    }
    target.step();
  }
  for (auto& [id, r] : requests) EXPECT_EQ(target.of(id).ids(), run_alone(r).ids()) << id;
  const auto s = target.engine->stats().speculation;
  if (lossy) return;
  EXPECT_EQ(s.draft_drafted, s.draft_accepted) << "the same model draws the same tokens";
  EXPECT_GE(s.draft_drafted, 1u);
}

TEST(draft_engine, a_draft_of_the_same_model_is_always_right) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    run_pair(seed, false);
  }
}

TEST(draft_engine, answers_are_the_plain_ones_whatever_it_does) {
  for (std::uint64_t seed = 100; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    run_pair(seed, true);
  }
}

// Passes of a target whose tokens and times depend on whether a draft works; returns the share of passes with it.
double share_with_draft(draft_trial& t, int passes, std::uint32_t decodes, double gain,
                        double slowdown) {
  std::mt19937 random(3);
  int with = 0;
  double owed = 0;
  for (int i = 0; i < passes; ++i) {
    const bool on = t.wanted();
    with += on;
    if (on) t.heard();
    owed += decodes * (on ? gain : 1.0);
    const auto tokens = static_cast<std::uint32_t>(owed);
    owed -= tokens;
    const double noise = 0.95 + 0.1 * (random() % 1000) / 1000.0;
    t.observe(decodes, tokens, 0.01 * noise * (on ? slowdown : 1.0));
  }
  return static_cast<double>(with) / passes;
}

TEST(draft_trial, keeps_a_draft_that_makes_decoding_faster) {
  draft_trial t;
  EXPECT_FALSE(t.wanted());
  t.expect(true);
  share_with_draft(t, 500, 1, 1.6, 1.2);
  EXPECT_GT(share_with_draft(t, 10'000, 1, 1.6, 1.2), 0.9);
}

TEST(draft_trial, gives_up_a_draft_that_does_not) {
  draft_trial t;
  t.expect(true);
  EXPECT_LT(share_with_draft(t, 2'000, 1, 1.3, 1.6), 0.05);
  EXPECT_LT(share_with_draft(t, 20'000, 1, 1.3, 1.6), 0.01);
  EXPECT_LT(share_with_draft(t, 20'000, 1, 1.0, 1.0), 0.02) << "neither better nor worse: spared";
}

TEST(draft_trial, tells_loads_apart_and_follows_changes) {
  draft_trial t;
  t.expect(true);
  for (int i = 0; i < 30; ++i) {
    share_with_draft(t, 200, 1, 1.6, 1.1);
    share_with_draft(t, 200, 8, 1.6, 2.0);
  }
  EXPECT_GT(share_with_draft(t, 1'000, 1, 1.6, 1.1), 0.8);
  EXPECT_LT(share_with_draft(t, 1'000, 8, 1.6, 2.0), 0.1);
  share_with_draft(t, 5'000, 1, 1.6, 2.0);  // another process came
  EXPECT_LT(share_with_draft(t, 5'000, 1, 1.6, 2.0), 0.1);
  t.expect(false);
  EXPECT_FALSE(t.wanted());
}

TEST(draft_trial, does_not_wait_for_a_silent_draft) {
  draft_trial t;
  t.expect(true);
  for (int i = 0; i < 400; ++i) t.observe(1, 1, 0.01);
  EXPECT_FALSE(t.wanted());
}

}  // namespace
}  // namespace troupe::engine::testing
