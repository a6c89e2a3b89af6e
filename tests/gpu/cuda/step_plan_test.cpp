// Needs no GPU: the plan is made on the host.
#include "gpu/cuda/step_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "gpu/cuda/rows.hpp"

namespace troupe::gpu::cuda {
namespace {

struct sequence_case {
  std::uint32_t first_position, count, num_logits;
};

// Every (row, key at or before its position) is covered by exactly one item, and the parts of a piece agree on where their
// partials lie.
void expect_complete(const std::vector<sequence_case>& cases, const plan_options& options) {
  std::vector<token_id> tokens(100000);
  std::vector<std::vector<block_id>> tables;
  std::vector<sequence_rows> rows;
  std::uint32_t next_block = 3, at = 0;
  for (const auto& c : cases) {
    std::vector<block_id> table((c.first_position + c.count + options.block_tokens - 1) /
                                options.block_tokens);
    for (auto& b : table) b = next_block++;
    tables.push_back(std::move(table));
  }
  for (std::size_t i = 0; i < cases.size(); ++i) {
    rows.push_back({std::span(tokens).subspan(at, cases[i].count), cases[i].first_position,
                    tables[i], cases[i].num_logits});
    at += cases[i].count;
  }
  step_plan plan;
  plan.build({rows}, options);
  ASSERT_EQ(plan.rows, at);
  ASSERT_EQ(plan.single, std::all_of(cases.begin(), cases.end(),
                                     [](const sequence_case& c) { return c.count == 1; }));
  std::vector<std::uint64_t> covered(plan.rows);
  std::size_t items = 0;
  for (const auto& round : plan.rounds) {
    std::map<std::uint32_t, std::uint32_t> partials;  // partial row -> batch row
    std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> parts_seen,
        parts_of;  // by counter and batch row
    for (std::uint32_t i = round.first_item; i < round.first_item + round.items; ++i, ++items) {
      const attention_item& item = plan.items[i];
      ASSERT_LE(item.tokens * options.shape.group(), tile_rows(round.tile));
      ASSERT_EQ(item.kv_begin % tile_keys(round.tile), 0u);
      ASSERT_LT(item.kv_begin, item.kv_end);
      for (std::uint32_t t = 0; t < item.tokens; ++t) {
        const std::uint32_t end = std::min(item.kv_end, item.position + t + 1);
        ASSERT_EQ(plan.positions[item.row + t], item.position + t);
        if (end > item.kv_begin) covered[item.row + t] += end - item.kv_begin;
        if (item.parts > 1) {
          ASSERT_TRUE(
              partials.emplace(item.partial + item.part * item.tokens + t, item.row + t).second);
          ASSERT_LT(item.counter, plan.counters);
          ++parts_seen[{item.counter, item.row + t}];
        }
      }
      for (std::uint32_t t = 0; t < item.tokens && item.parts > 1; ++t)
        parts_of[{item.counter, item.row + t}] = item.parts;
    }
    EXPECT_EQ(parts_seen, parts_of);
    ASSERT_LE(partials.size(), plan.partial_rows);
  }
  EXPECT_EQ(items, plan.items.size());
  for (std::uint32_t r = 0; r < plan.rows; ++r)
    EXPECT_EQ(covered[r], plan.positions[r] + 1) << "row " << r;
  std::size_t row = 0, logits = 0;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    for (std::uint32_t t = 0; t < cases[i].count; ++t, ++row) {
      const std::uint32_t p = plan.positions[row];
      EXPECT_EQ(plan.slots[row], tables[i][p / options.block_tokens] * options.block_tokens +
                                     p % options.block_tokens);
      if (t + cases[i].num_logits >= cases[i].count) {
        EXPECT_EQ(plan.gather[logits++], row);
      }
    }
  }
  EXPECT_EQ(logits, plan.gather.size());
}

TEST(step_plan, covers_every_key_once_for_random_batches) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 300; ++trial) {
    plan_options options;
    const std::uint32_t kv_heads = 1 + random() % 8;
    options.shape = {kv_heads * static_cast<std::uint32_t>(1 + random() % 8), kv_heads, 128};
    options.exact = random() % 2 == 0;
    options.exact_split = 64 * (1 + random() % 8);
    options.max_partial_rows = 2048;
    std::vector<sequence_case> cases;
    for (std::uint32_t i = 0, n = 1 + random() % 20; i < n; ++i) {
      const auto count =
          static_cast<std::uint32_t>(random() % 3 == 0 ? 1 + random() % 300 : 1 + random() % 2);
      cases.push_back({static_cast<std::uint32_t>(random() % (random() % 2 ? 5000 : 100)), count,
                       static_cast<std::uint32_t>(random() % (count + 1))});
    }
    expect_complete(cases, options);
    if (::testing::Test::HasFatalFailure()) FAIL() << "trial " << trial;
  }
}

TEST(step_plan, short_full_batches_are_not_split) {
  plan_options options;
  options.shape = {32, 8, 128};
  std::vector<block_id> table(64);
  const token_id token = 0;
  std::vector<sequence_rows> rows(256, {std::span(&token, 1), 1000, table, 1});
  step_plan plan;
  plan.build({rows}, options);
  ASSERT_EQ(plan.rounds.size(), 1u);
  EXPECT_EQ(plan.counters, 0u);
  EXPECT_TRUE(plan.every_row_has_logits);
}

// 1,030 keys of each, in parts of the 256 that would be fair, are five parts: more than two a multiprocessor.
TEST(step_plan, parts_fit_the_card_at_once) {
  plan_options options;
  options.shape = {32, 8, 128};
  std::vector<block_id> table(512);
  const token_id token = 0;
  for (const std::uint32_t sequences : {1u, 4u, 8u, 16u}) {
    std::vector<sequence_rows> rows(sequences, {std::span(&token, 1), 1029, table, 1});
    rows[0].first_position = 5000;
    step_plan plan;
    plan.build({rows}, options);
    EXPECT_LE(plan.items.size() * 8, 2 * options.multiprocessors) << sequences;
    EXPECT_GE(plan.items.size(), sequences);
  }
}

TEST(step_plan, a_long_sequence_among_many_short_ones_is_split) {
  plan_options options;
  options.shape = {32, 8, 128};
  std::vector<block_id> table(4096);
  const token_id token = 0;
  for (const std::uint32_t sequences : {8u, 25u, 32u, 33u, 64u}) {
    std::vector<sequence_rows> rows(sequences, {std::span(&token, 1), 1023, table, 1});
    rows[0].first_position = 32767;
    step_plan plan;
    plan.build({rows}, options);
    std::uint32_t longest = 0;
    for (const auto& i : plan.items) longest = std::max(longest, i.kv_end - i.kv_begin);
    const std::uint32_t fair = (32768 + (sequences - 1) * 1024) * 8 / (2 * options.multiprocessors);
    EXPECT_LE(longest, 2 * std::max(fair, 256u) + 192) << sequences;
  }
}

TEST(step_plan, one_long_sequence_fills_the_card) {
  plan_options options;
  options.shape = {32, 8, 128};
  std::vector<block_id> table(1024);
  const token_id token = 0;
  std::vector<sequence_rows> rows(1, {std::span(&token, 1), 8191, table, 1});
  step_plan plan;
  plan.build({rows}, options);
  EXPECT_GE(plan.items.size() * 8, 200u);
  EXPECT_EQ(plan.counters, 1u);
}

}  // namespace
}  // namespace troupe::gpu::cuda
