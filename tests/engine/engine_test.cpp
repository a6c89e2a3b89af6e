// One engine, whole requests: what comes out does not depend on what else runs.
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

using std::chrono::milliseconds;

TEST(engine, answers_one_request) {
  engine_fixture f(32);
  ASSERT_TRUE(f.engine->add(make_request(1, make_prompt(1, 10), 6), f.now));
  EXPECT_TRUE(f.engine->has_work());
  f.run();
  const answer& a = f.of(1);
  ASSERT_TRUE(a.end);
  EXPECT_LE(a.tokens.size(), 6u);
  for (std::size_t i = 0; i < a.tokens.size(); ++i) EXPECT_EQ(a.tokens[i].index, i);
  EXPECT_EQ(a.end->usage.prompt_tokens, 10u);
  EXPECT_EQ(f.engine->stats().blocks_free + f.engine->stats().blocks_cached, 32u);
}

TEST(engine, the_fake_device_notices_one_wrong_byte) {
  // Negative control: without it, equal answers below would prove nothing.
  auto request = make_request(1, make_prompt(1, 10), 30);
  request.sampling.ignore_eos = true;
  const auto clean = run_alone(request).ids();
  engine_fixture f(32);
  ASSERT_TRUE(f.engine->add(request, f.now));
  for (int i = 0; i < 8; ++i) f.step();
  for (block_id b = 0; b < 32; ++b) f.runner.block(b)[0] ^= std::byte{1};
  f.run();
  EXPECT_EQ(f.of(1).tokens.size(), clean.size());
  EXPECT_NE(f.of(1).ids(), clean);
}

TEST(engine, answers_do_not_depend_on_chunks) {
  const auto request = make_request(1, make_prompt(3, 61), 12);
  const auto expected = run_alone(request).ids();
  for (std::uint32_t chunk : {4u, 8u, 12u, 20u, 64u}) {
    engine_fixture f(64, {}, [&](engine_options& o) { o.max_prefill_chunk = chunk; });
    ASSERT_TRUE(f.engine->add(request, f.now));
    f.run();
    EXPECT_EQ(f.of(1).ids(), expected) << "chunk " << chunk;
  }
}

TEST(engine, a_batch_gives_each_its_own_answer_within_the_budget) {
  engine_fixture f(256);
  std::map<std::uint64_t, std::vector<token_id>> expected;
  for (std::uint64_t id = 1; id <= 20; ++id) {
    auto r = make_request(id, make_prompt(id, static_cast<std::uint32_t>(1 + id * 3 % 40)), 10);
    r.sampling.temperature = id % 2 ? 0.0f : 0.9f;
    r.sampling.seed = id;
    expected[id] = run_alone(r).ids();
    ASSERT_TRUE(f.engine->add(r, f.now));
  }
  f.run();
  for (const auto& [id, ids] : expected) EXPECT_EQ(f.of(id).ids(), ids) << "request " << id;
  EXPECT_LE(f.runner.largest_batch(), 64u);
}

TEST(engine, end_tokens_end_the_answer_and_are_counted_not_shown) {
  auto request = make_request(1, make_prompt(4, 9), 12);
  request.sampling.ignore_eos = true;
  const auto whole = run_alone(request).ids();
  ASSERT_EQ(whole.size(), 12u);
  request.sampling.stop_token_ids = {whole[5]};
  const auto first =
      static_cast<std::size_t>(std::find(whole.begin(), whole.end(), whole[5]) - whole.begin());
  const answer stopped = run_alone(request);
  EXPECT_EQ(stopped.ids(),
            std::vector(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(first)));
  EXPECT_EQ(stopped.end->reason, finish_reason::stop);
  EXPECT_EQ(stopped.end->usage.completion_tokens, first + 1);
  // min_tokens makes it impossible for as long.
  request.sampling.min_tokens = 12;
  const answer forced = run_alone(request);
  EXPECT_EQ(forced.tokens.size(), 12u);
  EXPECT_EQ(forced.end->reason, finish_reason::length);
  EXPECT_THAT(forced.ids(), ::testing::Not(::testing::Contains(whole[5])));
}

TEST(engine, resumed_requests_go_on_as_if_nothing_had_happened) {
  auto request = make_request(1, make_prompt(5, 13), 20);
  request.sampling.ignore_eos = true;
  request.sampling.temperature = 1.2f;
  request.sampling.seed = 99;
  request.sampling.repetition_penalty = 1.3f;
  request.sampling.frequency_penalty = 0.5f;
  const auto whole = run_alone(request).ids();
  for (std::size_t done : {1u, 3u, 8u, 19u, 20u}) {
    auto rest = request;
    rest.try_number = 1;
    rest.output.assign(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(done));
    const answer a = run_alone(rest);
    EXPECT_EQ(a.ids(), std::vector(whole.begin() + static_cast<std::ptrdiff_t>(done), whole.end()));
    ASSERT_TRUE(a.end);
    EXPECT_EQ(a.end->reason, finish_reason::length);
    EXPECT_EQ(a.end->usage.completion_tokens, 20u);
    if (!a.tokens.empty()) {
      EXPECT_EQ(a.tokens.front().index, done);
    }
  }
}

TEST(engine, cached_prefixes_are_reused_and_change_nothing) {
  const auto prompt = make_prompt(6, 32);
  const auto expected = run_alone(make_request(1, prompt, 10)).ids();
  engine_fixture f(64);
  ASSERT_TRUE(f.engine->add(make_request(1, prompt, 10), f.now));
  f.run();
  ASSERT_TRUE(f.engine->add(make_request(2, prompt, 10), f.now));
  f.run();
  EXPECT_EQ(f.of(1).ids(), expected);
  EXPECT_EQ(f.of(2).ids(), expected);
  EXPECT_EQ(f.of(1).end->usage.cached_tokens, 0u);
  EXPECT_EQ(f.of(2).end->usage.cached_tokens,
            31u);  // the last token is computed for its logits, those before it are copied
  // Another salt shares nothing.
  auto salted = make_request(3, prompt, 10);
  salted.cache_salt = "tenant";
  ASSERT_TRUE(f.engine->add(salted, f.now));
  f.run();
  EXPECT_EQ(f.of(3).ids(), expected);
  EXPECT_EQ(f.of(3).end->usage.cached_tokens, 0u);
}

TEST(engine, a_block_that_begins_alike_is_copied_and_changes_nothing) {
  engine_fixture f(24);
  const auto first = make_prompt(9, 40);
  ASSERT_TRUE(f.engine->add(make_request(1, first, 10), f.now));
  f.run();
  for (std::uint64_t shared = 1; shared < 40; ++shared) {
    auto r = make_request(1 + shared, make_prompt(100 + shared, 40), 10);
    std::copy_n(first.begin(), shared, r.prompt.begin());
    r.prompt[shared] = first[shared] == 2 ? 3 : 2;
    const auto expected = run_alone(r).ids();
    ASSERT_TRUE(f.engine->add(r, f.now));
    f.run();
    EXPECT_EQ(f.of(1 + shared).ids(), expected);
    EXPECT_GE(f.of(1 + shared).end->usage.cached_tokens, shared);
    // The blocks of the first one stay, whatever the others do.
    ASSERT_TRUE(f.engine->add(make_request(1000 + shared, first, 1), f.now));
    f.run();
    EXPECT_EQ(f.of(1000 + shared).ids().front(), f.of(1).ids().front());
  }
}

TEST(engine, multi_turn_finds_the_blocks_of_the_answer_too) {
  engine_fixture f(64);
  auto request = make_request(1, make_prompt(7, 16), 16);
  request.sampling.ignore_eos = true;
  ASSERT_TRUE(f.engine->add(request, f.now));
  f.run();
  auto turn = make_request(2, request.prompt, 4);
  for (token_id t : f.of(1).ids()) turn.prompt.push_back(t);
  turn.prompt.push_back(7);
  const auto expected = run_alone(turn).ids();
  ASSERT_TRUE(f.engine->add(turn, f.now));
  f.run();
  EXPECT_EQ(f.of(2).ids(), expected);
  EXPECT_EQ(f.of(2).end->usage.cached_tokens,
            28u);  // all computed: the KV of the answer's last token is not
}

TEST(engine, preemption_keeps_answers_and_the_oldest_moves) {
  engine_fixture f(16, {}, [](engine_options& o) { o.prefix_caching = false; });
  std::map<std::uint64_t, std::vector<token_id>> expected;
  for (std::uint64_t id = 1; id <= 6; ++id) {
    auto r = make_request(id, make_prompt(id, 8), 40);
    r.sampling.ignore_eos = true;
    expected[id] = run_alone(r).ids();
    ASSERT_TRUE(f.engine->add(r, f.now));
  }
  f.run();
  for (const auto& [id, ids] : expected) EXPECT_EQ(f.of(id).ids(), ids) << "request " << id;
  EXPECT_GT(f.engine->stats().preemptions, 0u);
  EXPECT_EQ(f.of(1).end->usage.preemptions, 0u) << "the oldest is never preempted";
}

TEST(engine, deadlines_end_requests_without_work) {
  engine_fixture f(16);
  auto r = make_request(1, make_prompt(1, 8), 40);
  r.deadline = f.now + milliseconds(50);
  ASSERT_TRUE(f.engine->add_remote(r, f.now));  // nothing of it ever comes
  EXPECT_FALSE(f.engine->has_work());
  EXPECT_EQ(f.engine->next_deadline(), r.deadline);
  f.now = r.deadline;
  f.step();
  ASSERT_TRUE(f.of(1).end);
  EXPECT_EQ(f.of(1).end->reason, finish_reason::error);
  EXPECT_EQ(f.of(1).end->failure.code, ec::deadline_exceeded);
  EXPECT_EQ(f.engine->stats().blocks_free, 16u);
}

TEST(engine, cancel_is_idempotent_in_every_state) {
  engine_fixture f(16, {}, [](engine_options& o) { o.max_num_seqs = 1; });
  ASSERT_TRUE(f.engine->add(make_request(1, make_prompt(1, 8), 30), f.now));
  ASSERT_TRUE(f.engine->add(make_request(2, make_prompt(2, 8), 30), f.now));
  auto held = make_request(3, make_prompt(3, 8));
  held.prefill_only = true;
  f.step();
  f.engine->cancel(request_id{1}, f.now);
  f.engine->cancel(request_id{1}, f.now);
  f.engine->cancel(request_id{2}, f.now);
  ASSERT_TRUE(f.engine->add(held, f.now));
  f.run();
  f.engine->cancel(request_id{3}, f.now);
  f.engine->cancel(request_id{4}, f.now);
  f.run();
  for (std::uint64_t id : {1, 2, 3}) {
    ASSERT_TRUE(f.of(id).end) << id;
    EXPECT_EQ(f.of(id).end->reason, finish_reason::abort);
    EXPECT_EQ(f.of(id).end->failure.code, ec::canceled);
  }
  EXPECT_EQ(f.engine->stats().blocks_free + f.engine->stats().blocks_cached, 16u);
}

TEST(engine, refuses_what_cannot_be_served) {
  engine_fixture f(16, {}, [](engine_options& o) {
    o.max_model_len = 100;
    o.max_waiting = 2;
  });
  const auto code = [&](generation_request r) {
    auto x = f.engine->add(std::move(r), f.now);
    return x ? ec::none : x.error().code;
  };
  EXPECT_EQ(code(make_request(1, {})), ec::invalid_argument);
  EXPECT_EQ(code(make_request(1, {40})), ec::invalid_argument);
  EXPECT_EQ(code(make_request(1, make_prompt(1, 90), 11)), ec::context_exceeded);
  EXPECT_EQ(code(make_request(1, make_prompt(1, 60), 5)), ec::context_exceeded);  // 17 blocks
  auto hot = make_request(1, {2});
  hot.sampling.temperature = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(code(hot), ec::invalid_argument);
  EXPECT_EQ(code(make_request(1, {2})), ec::none);
  EXPECT_EQ(code(make_request(1, {2})), ec::invalid_argument);
  EXPECT_EQ(code(make_request(2, {2})), ec::none);
  EXPECT_EQ(code(make_request(3, {2})), ec::queue_full);
  f.run();
  EXPECT_EQ(code(make_request(3, {2})), ec::none);
  f.run();
}

TEST(engine, bounds_the_tokens_that_wait) {
  engine_fixture f(64, {}, [](engine_options& o) { o.max_waiting_tokens = 50; });
  ASSERT_TRUE(f.engine->add(make_request(1, make_prompt(1, 60)), f.now))
      << "one request always may wait";
  auto second = f.engine->add(make_request(2, make_prompt(2, 10)), f.now);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ec::queue_full);
  f.run();
}

TEST(engine, a_row_without_numbers_ends_only_its_request) {
  fake_runner_options poisoned;
  poisoned.poison = 33;
  engine_fixture f(64, poisoned);
  auto bad = make_request(1, {5, 6, 33}, 4);
  auto good = make_request(2, {5, 6, 7}, 4);
  good.sampling.ignore_eos = true;
  ASSERT_TRUE(f.engine->add(bad, f.now));
  ASSERT_TRUE(f.engine->add(good, f.now));
  f.run();
  ASSERT_TRUE(f.of(1).end && f.of(2).end);
  EXPECT_EQ(f.of(1).end->reason, finish_reason::error);
  EXPECT_EQ(f.of(1).end->failure.code, ec::internal);
  EXPECT_EQ(f.of(2).end->reason, finish_reason::length);
}

TEST(engine, a_lost_device_is_reported_and_leaves_the_books_in_order) {
  engine_fixture f(16);
  ASSERT_TRUE(f.engine->add(make_request(1, make_prompt(1, 8), 4), f.now));
  f.runner.fail_next({ec::device_lost, "gone"});
  auto r = f.engine->step(f.now);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, ec::device_lost);
  EXPECT_EQ(f.engine->check_invariants(), "");
  f.engine->cancel(request_id{1}, f.now);
  f.run();
  EXPECT_EQ(f.engine->stats().blocks_free, 16u);
}

TEST(engine, prompt_logprobs_do_not_depend_on_chunks_or_caches) {
  auto r = make_request(1, make_prompt(8, 37), 3);
  r.sampling.prompt_logprobs = 3;
  r.sampling.logprobs = 2;
  const answer expected = run_alone(r);
  ASSERT_EQ(expected.prompt_logprobs.size(), 37u);
  EXPECT_TRUE(expected.prompt_logprobs[0].top.empty());
  engine_fixture f(64);
  ASSERT_TRUE(f.engine->add(make_request(7, r.prompt, 3), f.now));  // fills the cache
  f.run();
  ASSERT_TRUE(f.engine->add(r, f.now));
  f.run();
  const answer& a = f.of(1);
  EXPECT_EQ(a.end->usage.cached_tokens, 0u);
  ASSERT_EQ(a.prompt_logprobs.size(), 37u);
  for (std::size_t i = 0; i < 37; ++i) {
    EXPECT_EQ(a.prompt_logprobs[i].index, i);
    EXPECT_EQ(a.prompt_logprobs[i].token, r.prompt[i]);
    EXPECT_EQ(a.prompt_logprobs[i].logprob, expected.prompt_logprobs[i].logprob);
    if (i > 0) {
      ASSERT_EQ(a.prompt_logprobs[i].top.size(), 3u);
    }
  }
  ASSERT_FALSE(a.tokens.empty());
  EXPECT_EQ(a.tokens[0].logprob, expected.tokens[0].logprob);
  EXPECT_EQ(a.tokens[0].top.size(), 2u);
}

TEST(engine, echo_without_generation) {
  auto r = make_request(1, make_prompt(8, 9), 0);
  r.sampling.prompt_logprobs = 0;
  const answer a = run_alone(r);
  ASSERT_TRUE(a.end);
  EXPECT_EQ(a.end->reason, finish_reason::length);
  EXPECT_EQ(a.prompt_logprobs.size(), 9u);
  EXPECT_TRUE(a.tokens.empty());
}

// Seals as the host would, and counts.
class counting_sealer final : public block_sealer {
 public:
  explicit counting_sealer(fake_runner& runner)
      : host_(runner.arena(), runner.layout().block_bytes(), runner.layout().payload_bytes()) {}
  void invalidate(block_id b) override { host_.invalidate(b); }
  void seal(block_id b, const transport::block_tag& tag) override {
    host_.seal(b, tag);
    ++seals;
  }
  int seals = 0;

 private:
  host_block_sealer host_;
};

TEST(engine, device_memory_is_sealed_by_the_device_or_not_at_all) {
  const fake_runner_options on_device{.memory = gpu::memory_kind::cuda};
  auto r = make_request(1, make_prompt(1, 10));
  r.prefill_only = true;
  engine_fixture without(16, on_device);
  auto refused = without.engine->add(r, without.now);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ec::unsupported);
  ASSERT_TRUE(without.engine->add(make_request(1, r.prompt), without.now))
      << "it decodes all the same";
  without.run();
  EXPECT_EQ(without.of(1).ids(), run_alone(make_request(1, r.prompt)).ids());

  fake_runner runner(16, on_device);
  engine_options o = small_options(runner);
  auto sealer = std::make_shared<counting_sealer>(runner);
  o.sealer = sealer;
  auto with = troupe::engine::engine::make(runner, runner.arena(), o);
  ASSERT_TRUE(with);
  ASSERT_TRUE((*with)->add(r, {}));
  while ((*with)->has_work()) ASSERT_TRUE((*with)->step({}));
  EXPECT_EQ(sealer->seals, 3);
}

TEST(engine, options_are_checked) {
  fake_runner runner(8);
  const auto code = [&](const std::function<void(engine_options&)>& change) {
    engine_options o = small_options(runner);
    change(o);
    auto made = engine::make(runner, runner.arena(), o);
    return made ? ec::none : made.error().code;
  };
  EXPECT_EQ(code([](auto&) {}), ec::none);
  EXPECT_EQ(code([](auto& o) { o.num_blocks = 9; }), ec::invalid_argument);
  EXPECT_EQ(code([](auto& o) { o.vocab_size = 0; }), ec::invalid_argument);
  EXPECT_EQ(code([](auto& o) { o.max_prefill_chunk = 6; }), ec::invalid_argument);
  EXPECT_EQ(code([](auto& o) { o.max_num_batched_tokens = 8; }), ec::invalid_argument);
}

}  // namespace
}  // namespace troupe::engine::testing
