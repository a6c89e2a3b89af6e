// Several guesses of one token in a pass: the right one wins, the others leave nothing behind.
#include <gtest/gtest.h>

#include <random>

#include "tests/engine/harness.hpp"
#include "tests/transport/fake_device.hpp"

namespace troupe::engine::testing {
namespace {

// So few tokens that a text's second opinion is right now and then.
constexpr std::uint32_t vocab_size = 6;

// Engines in which the text, earlier answers and a draft model guess, each sometimes wrong.
struct branching {
  enum class memory { host, device, without_copies };
  explicit branching(std::uint32_t blocks = 128, std::uint32_t block_tokens = 4,
                     memory where = memory::host)
      : fixture(blocks, device(block_tokens), [&](engine_options& o) {
          o.speculation.always = true;
          o.speculation.max_tokens = 5;
          o.speculation.history_bytes = 1 << 20;
          const auto& layout = fixture.runner.layout();
          if (where == memory::without_copies) o.sealer = std::make_shared<no_copies>();
          if (where == memory::device)
            o.sealer = std::make_shared<device_block_sealer>(
                std::make_shared<transport::testing::fake_device>(), fixture.runner.arena(),
                layout.block_bytes(), layout.payload_bytes());
        }) {}

  static fake_runner_options device(std::uint32_t block_tokens) {
    fake_runner_options o;
    o.block_tokens = block_tokens;
    o.vocab_size = vocab_size;
    return o;
  }
  struct no_copies final : block_sealer {
    void invalidate(block_id) override {}
    void seal(block_id, const transport::block_tag&) override {}
  };

  // The answer comes once so that it is remembered, then again with offers of which one in `wrong_each` tokens is wrong.
  void run(generation_request r, int wrong_each) {
    const answer expected = run_alone(r, device(4));
    const std::uint64_t id = raw(r.id);
    auto before = r;
    before.id = request_id{id + 1'000'000};
    EXPECT_TRUE(fixture.engine->add(before, fixture.now));
    fixture.run();
    auto offers = expected.ids();
    for (std::size_t i = 0; i < offers.size(); ++i)
      if (static_cast<int>(i) % wrong_each == 0) offers[i] = (offers[i] + 1) % vocab_size;
    const auto first = static_cast<std::uint32_t>(r.prompt.size());
    EXPECT_TRUE(fixture.engine->add(r, fixture.now));
    while (fixture.engine->has_work()) {
      const auto done = fixture.of(id).tokens.size();
      if (done < offers.size())
        fixture.engine->offer_draft(
            r.id, 0, first + static_cast<std::uint32_t>(done),
            {offers.begin() + static_cast<std::ptrdiff_t>(done), offers.end()});
      fixture.step();
    }
    const answer& got = fixture.of(id);
    ASSERT_TRUE(got.end);
    EXPECT_EQ(got.ids(), expected.ids());
    ASSERT_EQ(got.tokens.size(), expected.tokens.size());
    for (std::size_t i = 0; i < got.tokens.size(); ++i) {
      EXPECT_EQ(got.tokens[i].index, i);
      EXPECT_EQ(got.tokens[i].logprob, expected.tokens[i].logprob);
    }
    EXPECT_EQ(got.end->reason, expected.end->reason);
    EXPECT_EQ(got.end->usage.completion_tokens, expected.end->usage.completion_tokens);
  }
  speculation_stats stats() const { return fixture.engine->stats().speculation; }

  engine_fixture fixture;
};

generation_request long_answer(std::uint64_t id, std::uint32_t prompt, std::uint32_t max_tokens) {
  auto r = make_request(id, make_prompt(id, prompt, vocab_size), max_tokens);
  r.sampling.ignore_eos = true;
  return r;
}

TEST(branches, the_right_guess_wins_wherever_a_block_ends) {
  std::uint64_t won = 0;
  for (const std::uint32_t block_tokens : {1u, 2u, 4u, 8u, 16u})
    for (std::uint32_t prompt = 5; prompt < 13; ++prompt) {
      SCOPED_TRACE(std::to_string(block_tokens) + " " + std::to_string(prompt));
      branching b(256, block_tokens);
      b.run(long_answer(prompt, prompt, 90), 1 + static_cast<int>(prompt % 4));
      const auto s = b.stats();
      won += s.branches_won;
      EXPECT_LE(s.accepted, s.drafted);
      const auto all = b.fixture.engine->stats();
      EXPECT_EQ(all.blocks_free + all.blocks_cached, 256u);
    }
  EXPECT_GT(won, 60u);
}

// There the device copies what a step asked for at once, before the pass. Prompts that are known but for the end of a block,
// too, go on in a copy of it.
TEST(branches, work_in_the_memory_of_a_device) {
  std::uint64_t won = 0, within_a_block = 0;
  for (std::uint32_t prompt = 5; prompt < 13; ++prompt) {
    branching b(256, 4, branching::memory::device);
    b.run(long_answer(prompt, prompt, 90), 1 + static_cast<int>(prompt % 4));
    won += b.stats().branches_won;
    within_a_block += b.fixture.of(prompt).end->usage.cached_tokens % 4 != 0;
  }
  EXPECT_GT(won, 10u);
  EXPECT_EQ(within_a_block, 6u);  // a prompt of 4 n + 1 tokens has n known blocks
}

TEST(branches, work_under_every_way_to_sample) {
  std::mt19937 random(12);
  std::uint64_t won = 0;
  for (std::uint64_t id = 1; id <= 60; ++id) {
    SCOPED_TRACE(id);
    auto r = long_answer(id, 9, 30 + random() % 60);
    auto& p = r.sampling;
    p.seed = id;
    p.temperature = random() % 3 == 0 ? 0.0f : 0.9f;
    if (random() % 2) p.top_p = 0.8f;
    if (random() % 3 == 0) p.repetition_penalty = 1.3f;
    if (random() % 3 == 0) p.presence_penalty = 0.5f;
    if (random() % 3 == 0) p.frequency_penalty = 0.5f;
    if (random() % 2) p.logprobs = 3;
    if (random() % 2) p.ignore_eos = false;
    if (random() % 3 == 0) p.stop_token_ids = {static_cast<token_id>(random() % vocab_size)};
    branching b;
    b.run(r, 1 + static_cast<int>(random() % 4));
    won += b.stats().branches_won;
  }
  EXPECT_GT(won, 20u);
}

TEST(branches, take_no_block_that_others_need) {
  branching b(18);
  b.run(long_answer(4, 9, 50), 2);
  EXPECT_EQ(b.fixture.of(4).end->usage.preemptions, 0u);
}

// A device that takes so long for a pass and for each of its rows, and a text that is hard to guess.
struct timed {
  timed(double pass_ms, double row_ms, bool branches)
      : fixture(256, branching::device(4), [&](engine_options& o) {
          o.speculation.branches = branches;
          o.pass_clock = [this, pass_ms, row_ms] {
            const double ms =
                pass_ms * fixture.runner.num_passes() + row_ms * fixture.runner.total_rows();
            return time_point(std::chrono::nanoseconds(static_cast<std::int64_t>(ms * 1e6)));
          };
        }) {
    EXPECT_TRUE(fixture.engine->add(long_answer(8, 9, 600), fixture.now));
    fixture.run();
    EXPECT_EQ(fixture.of(8).tokens.size(), 600u);
  }
  speculation_stats stats() const { return fixture.engine->stats().speculation; }
  engine_fixture fixture;
};

TEST(branches, are_checked_where_rows_are_nearly_free_and_not_where_they_cost) {
  timed with(4, 0.01, true), without(4, 0.01, false), dear(1, 0.5, true);
  EXPECT_EQ(with.fixture.of(8).ids(), without.fixture.of(8).ids());
  EXPECT_GT(with.stats().branches_won, 30u);
  EXPECT_LT(with.fixture.runner.num_passes(), without.fixture.runner.num_passes());
  EXPECT_EQ(without.stats().branches, 0u);
  EXPECT_EQ(dear.stats().branches, 0u);
}

TEST(branches, need_a_device_that_copies) {
  branching b(128, 4, branching::memory::without_copies);
  b.run(long_answer(5, 9, 40), 2);
  EXPECT_EQ(b.stats().branches, 0u);
  EXPECT_GT(b.stats().accepted, 0u);
}

TEST(branches, leave_nothing_behind_where_a_pass_fails) {
  branching b;
  auto r = long_answer(6, 9, 60);
  b.run(r, 2);
  r.id = request_id{7};
  ASSERT_TRUE(b.fixture.engine->add(r, b.fixture.now));
  for (int i = 0; i < 6; ++i) b.fixture.step();
  const auto before = b.stats().branches;
  const token_id wrong = 5;
  b.fixture.engine->offer_draft(
      r.id, 0, 9 + static_cast<std::uint32_t>(b.fixture.of(7).tokens.size()), {wrong, wrong});
  b.fixture.runner.fail_next({ec::device_lost, "test"});
  EXPECT_FALSE(b.fixture.engine->step(b.fixture.now));
  EXPECT_EQ(b.fixture.engine->check_invariants(), "");
  EXPECT_EQ(b.stats().branches, before) << "nothing was checked";
  b.fixture.run();
  EXPECT_EQ(b.fixture.of(7).ids(), run_alone(r, branching::device(4)).ids());
}

}  // namespace
}  // namespace troupe::engine::testing
