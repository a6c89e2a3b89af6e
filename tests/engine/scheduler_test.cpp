// Blocks, prefix index, step-time model and scheduling policy, each alone.
#include "engine/scheduler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

// Notes which blocks were invalidated and sealed, in place of an arena.
class noting_sealer final : public block_sealer {
 public:
  void invalidate(block_id b) override { ++invalidated[b]; }
  void seal(block_id b, const transport::block_tag& tag) override { sealed[b] = tag; }
  std::map<block_id, int> invalidated;
  std::map<block_id, transport::block_tag> sealed;
};

struct pool_test : ::testing::Test {
  noting_sealer sealer;
  prefix_index index{4, 2};
  block_pool pool{4, index, sealer};
  std::vector<token_id> tokens(token_id a) { return {a, a}; }
  hash128_t hash(token_id a) { return chain_hash(root_hash({1, 2}, ""), tokens(a)); }
  block_id cached(token_id a) {
    const block_id b = pool.allocate(block_state::writing);
    pool.seal(b);
    EXPECT_TRUE(index.insert(hash(a), root_hash({1, 2}, ""), tokens(a), b));
    pool.unref(b);
    EXPECT_EQ(pool.state(b), block_state::cached);
    return b;
  }
};

TEST_F(pool_test, evicts_the_least_recently_used) {
  const block_id a = cached(1), b = cached(2), c = cached(3), d = cached(4);
  EXPECT_EQ(pool.count(block_state::free), 0u);
  EXPECT_EQ(pool.available(), 4u);
  pool.ref(a);
  pool.unref(a);  // used again: now the newest
  pool.ref(c);
  EXPECT_EQ(pool.allocate(block_state::writing), b);
  EXPECT_FALSE(index.find(hash(2), root_hash({1, 2}, ""), tokens(2)));
  EXPECT_EQ(pool.allocate(block_state::writing), d);
  EXPECT_EQ(pool.allocate(block_state::writing), a);
  EXPECT_EQ(pool.available(), 0u);
  EXPECT_EQ(pool.evictions(), 3u);
  EXPECT_EQ(*index.find(hash(3), root_hash({1, 2}, ""), tokens(3)), c) << "in use: not evicted";
  EXPECT_EQ(pool.check(), "");
}

TEST_F(pool_test, each_life_of_a_block_is_a_generation_whose_fence_is_written_once) {
  const block_id b = pool.allocate(block_state::writing);
  EXPECT_EQ(pool.generation(b), 1u);
  EXPECT_EQ(sealer.invalidated[b], 1) << "the arena may be an old one";
  pool.seal(b);
  pool.write_fence(b, {incarnation{5}, 1, 9, 2});
  EXPECT_EQ(sealer.sealed[b].generation, 1u);
  sealer.sealed.clear();
  pool.write_fence(b, {incarnation{5}, 1, 9, 2});
  EXPECT_TRUE(sealer.sealed.empty());
  pool.unref(b);
  ASSERT_EQ(pool.allocate(block_state::writing), b);
  EXPECT_EQ(pool.generation(b), 2u);
  EXPECT_EQ(sealer.invalidated[b], 2);
  pool.unref(b);
  ASSERT_EQ(pool.allocate(block_state::pulling), b);
  EXPECT_EQ(sealer.invalidated[b], 2) << "no fence was written since";
  pool.unref(b);
  ASSERT_EQ(pool.allocate(block_state::writing), b);
  EXPECT_EQ(sealer.invalidated[b], 3) << "the pull may have brought one";
}

TEST_F(pool_test, a_block_under_a_pull_is_free_only_after_it) {
  const block_id b = pool.allocate(block_state::pulling);
  pool.begin_pull(b);
  pool.unref(b);
  EXPECT_EQ(pool.state(b), block_state::quarantined);
  EXPECT_EQ(pool.available(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_NE(pool.allocate(block_state::writing), b);
  EXPECT_EQ(pool.available(), 0u);
  EXPECT_EQ(pool.check(), "");
  pool.end_pull(b);
  EXPECT_EQ(pool.state(b), block_state::free);
  EXPECT_EQ(pool.check(), "");
}

TEST_F(pool_test, misuse_stops_the_program) {
  const block_id b = pool.allocate(block_state::writing);
  EXPECT_DEATH(pool.ref(b), "broken invariant");
  EXPECT_DEATH(pool.begin_pull(b), "broken invariant");
  EXPECT_DEATH(pool.end_pull(b), "broken invariant");
  pool.unref(b);
  EXPECT_DEATH(pool.unref(b), "broken invariant");
  EXPECT_DEATH(pool.seal(b), "broken invariant");
}

TEST(prefix_index, addresses_the_whole_prefix_and_compares_tokens) {
  const std::vector<token_id> a = {1, 2}, b = {3, 4};
  const hash128_t root = root_hash({1, 2}, "");
  EXPECT_NE(root, root_hash({1, 3}, ""));
  EXPECT_NE(root, root_hash({1, 2}, "salt"));
  EXPECT_NE(chain_hash(chain_hash(root, a), b), chain_hash(chain_hash(root, b), b));
  prefix_index index(4, 2);
  const hash128_t h = chain_hash(root, a);
  EXPECT_TRUE(index.insert(h, root, a, 3));
  EXPECT_FALSE(index.insert(h, root, a, 2)) << "the first one stays";
  EXPECT_EQ(*index.find(h, root, a), 3u);
  EXPECT_FALSE(index.find(h, root, b)) << "a collision of the hash is no hit";
  EXPECT_FALSE(index.find(h, chain_hash(root, b), a)) << "nor is one after another prefix";
  index.erase(3);
  EXPECT_FALSE(index.find(h, root, a));
  EXPECT_TRUE(index.consistent());
}

TEST(prefix_index, finds_the_block_that_agrees_longest) {
  std::mt19937 random(7);
  const auto some = [&](std::size_t n) {
    std::vector<token_id> t(n);
    for (token_id& x : t) x = static_cast<token_id>(random() % 3);
    return t;
  };
  const hash128_t parents[2] = {root_hash({1, 2}, ""), root_hash({1, 2}, "salt")};
  constexpr std::uint32_t num_blocks = 60, size = 6;
  prefix_index index(num_blocks, size);
  std::vector<std::pair<hash128_t, std::vector<token_id>>> held(num_blocks);
  for (int round = 0; round < 4000; ++round) {
    const block_id b = random() % num_blocks;
    if (index.contains(b)) index.erase(b);
    const auto& parent = parents[random() % 2];
    const auto tokens = some(size);
    if (index.insert(chain_hash(parent, tokens), parent, tokens, b)) held[b] = {parent, tokens};
    const auto wanted = some(1 + random() % size);
    std::uint32_t longest = 0;
    for (block_id x = 0; x < num_blocks; ++x) {
      if (!index.contains(x) || held[x].first != parents[0]) continue;
      const auto end = std::mismatch(wanted.begin(), wanted.end(), held[x].second.begin()).first;
      longest = std::max(longest, static_cast<std::uint32_t>(end - wanted.begin()));
    }
    const auto found = index.find_partial(parents[0], wanted);
    ASSERT_EQ(found.tokens, longest);
    if (longest == 0) continue;
    ASSERT_EQ(held[found.block].first, parents[0]);
    ASSERT_TRUE(
        std::equal(wanted.begin(), wanted.begin() + longest, held[found.block].second.begin()));
    ASSERT_TRUE(index.consistent());
  }
}

TEST(step_time_model, finds_the_coefficients_and_shrugs_off_noise_and_pauses) {
  step_time_model model;
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> noise(0.97, 1.03);
  const auto truth = [](const step_size& s) { return 4e-3 + 5e-5 * s.rows + 2e-9 * s.row_context; };
  EXPECT_FALSE(model.trained());
  EXPECT_EQ(model.rows_within({}, 0, 0.01, 256), 256u) << "untrained: no limit";
  for (int i = 0; i < 300; ++i) {
    step_size s;
    s.add(static_cast<std::uint32_t>(1 + random() % 256),
          static_cast<std::uint32_t>(random() % 4000));
    model.observe(s, i % 50 == 49 ? 30.0 : truth(s) * noise(random));
  }
  step_size decodes;
  for (int i = 0; i < 16; ++i) decodes.add(1, 500);
  // Within a pause's echo of the truth: an outlier counts at most eightfold.
  const std::uint32_t rows = model.rows_within(decodes, 1000, 0.012, 256);
  EXPECT_GT(rows, 60u);
  EXPECT_LT(rows, 200u);
  EXPECT_LE(model.rows_within(decodes, 1000, 0.006, 256), rows);
  EXPECT_EQ(model.rows_within(decodes, 1000, 1e-9, 256), 0u);
}

TEST(scheduling, decodes_go_first_and_prompts_fill_the_budget_in_order) {
  engine_fixture f(256, {}, [](engine_options& o) { o.prefix_caching = false; });
  for (std::uint64_t id = 1; id <= 4; ++id) {
    auto r = make_request(id, make_prompt(id, 4), 30);
    r.sampling.ignore_eos = true;
    ASSERT_TRUE(f.engine->add(r, f.now));
  }
  EXPECT_EQ(f.step().prefill_rows, 16u);
  for (std::uint64_t id = 5; id <= 8; ++id)
    ASSERT_TRUE(f.engine->add(make_request(id, make_prompt(id, 30), 30), f.now));
  const auto report = f.step();
  EXPECT_EQ(report.decode_rows, 4u);
  EXPECT_EQ(report.prefill_rows,
            16u * 3 + 12);  // 64 - 4, at most 16 of one prompt, cut to whole blocks
}

TEST(scheduling, chunks_shrink_to_the_inter_token_target_while_decodes_run) {
  // A device of 1 ms a pass and 0.5 ms a row; the target allows eleven ms.
  engine_fixture* self = nullptr;
  time_point device{};
  std::uint32_t rows_seen = 0;
  engine_fixture f(512, {}, [&](engine_options& o) {
    o.prefix_caching = false;
    o.max_prefill_chunk = 64;
    o.max_num_batched_tokens = 128;
    o.inter_token_target = std::chrono::microseconds(11'000);
    o.pass_clock = [&] {
      const auto total = self == nullptr ? 0 : self->runner.total_rows();
      if (total != rows_seen) device += std::chrono::microseconds(1000 + 500 * (total - rows_seen));
      rows_seen = total;
      return device;
    };
  });
  self = &f;
  auto decode = make_request(1, make_prompt(1, 8), 400);
  decode.sampling.ignore_eos = true;
  ASSERT_TRUE(f.engine->add(decode, f.now));
  std::uint32_t last_beside = 0, alone = 0;
  for (std::uint64_t id = 2; id < 12; ++id) {
    ASSERT_TRUE(f.engine->add(make_request(id, make_prompt(id, 100), 1), f.now));
    for (int i = 0; i < 30; ++i) {
      const auto report = f.step();
      if (report.decode_rows > 0 && report.prefill_rows > 0)
        last_beside = std::max(report.prefill_rows, id > 6 ? last_beside : 0);
    }
  }
  EXPECT_GE(last_beside, 12u);
  EXPECT_LE(last_beside, 20u) << "1 + 0.5 * (1 + 19) is the target";
  f.engine->cancel(request_id{1}, f.now);
  ASSERT_TRUE(f.engine->add(make_request(50, make_prompt(50, 100), 1), f.now));
  for (int i = 0; i < 3; ++i) alone = std::max(alone, f.step().prefill_rows);
  EXPECT_EQ(alone, 64u) << "nobody waits for a token: the largest chunk";
}

TEST(scheduling, a_long_prompt_is_not_overtaken_for_ever) {
  // Short requests keep coming; the long one needs most of the arena.
  engine_fixture f(32, {}, [](engine_options& o) { o.prefix_caching = false; });
  for (std::uint64_t id = 1; id <= 4; ++id)
    ASSERT_TRUE(f.engine->add(make_request(id, make_prompt(id, 12), 8), f.now));
  f.step();
  ASSERT_TRUE(f.engine->add(make_request(100, make_prompt(9, 100), 4), f.now));
  std::uint64_t next = 200;
  int steps = 0;
  while (!f.of(100).end && steps < 300) {
    (void)f.engine->add(make_request(next, make_prompt(next, 12), 8), f.now);
    ++next;
    (void)f.engine->add_remote(make_request(next, make_prompt(next, 12), 8), f.now);
    f.engine->remote_failed(request_id{next - 6}, 0, f.now);
    ++next;
    f.step();
    f.now += std::chrono::milliseconds(1);
    ++steps;
  }
  EXPECT_LT(steps, 100);
}

}  // namespace
}  // namespace troupe::engine::testing
