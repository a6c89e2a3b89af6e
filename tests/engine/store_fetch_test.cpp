// Prompts whose beginning comes from a KV store, and blocks that are offered to one.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/prefix_index.hpp"
#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

struct store_fetch : ::testing::Test {
  engine_fixture reader{64}, writer{64};

  generation_request request(std::uint64_t id, std::uint32_t length) {
    auto r = make_request(id, make_prompt(7, length), 6);
    r.sampling.ignore_eos = true;
    return r;
  }
  // What an engine that computed the prompt offers.
  std::vector<computed_block> computed(const generation_request& r) {
    std::vector<computed_block> all;
    writer.engine->offer_blocks(true);
    EXPECT_TRUE(writer.engine->add(r, writer.now));
    while (writer.engine->has_work()) {
      auto report = writer.step();
      all.insert(all.end(), report.happened.computed.begin(), report.happened.computed.end());
    }
    return all;
  }
  void fetch(const generation_request& r, const std::vector<computed_block>& blocks, std::size_t n,
             bool damaged = false) {
    std::vector<block_descriptor> descriptors;
    for (std::size_t i = 0; i < n; ++i) descriptors.push_back(blocks[i].block);
    const auto plan = reader.engine->start_pull(r.id, r.try_number, 0, descriptors);
    ASSERT_EQ(plan.pieces.size(), n);
    std::vector<bool> ok;
    for (const auto& p : plan.pieces) {
      std::ranges::copy(writer.runner.block(p.remote), reader.runner.block(p.local).begin());
      if (damaged && &p == &plan.pieces.back()) reader.runner.block(p.local)[3] ^= std::byte{1};
      ok.push_back(transport::verify(reader.runner.block(p.local).first(
                                         reader.runner.layout().payload_bytes() + 64),
                                     tag_of(p.expected, incarnation{77}, identity))
                       .has_value());
    }
    reader.engine->pull_ended(plan.id, ok, 100, {}, reader.now);
  }
};

TEST_F(store_fetch, computed_blocks_are_offered_once_sealed_and_named_by_their_chain) {
  const auto r = request(1, 30);
  const auto blocks = computed(r);
  ASSERT_EQ(blocks.size(), (30u + 5u) / 4u);  // the last output token has no KV
  hash128_t parent = root_hash(identity, "");
  for (std::uint32_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(blocks[i].index, i);
    EXPECT_EQ(blocks[i].parent, parent);
    EXPECT_EQ(blocks[i].hash, chain_hash(parent, blocks[i].tokens));
    EXPECT_EQ(blocks[i].first, blocks[0].hash);
    EXPECT_TRUE(transport::verify(writer.runner.block(blocks[i].block.block)
                                      .first(writer.runner.layout().payload_bytes() + 64),
                                  tag_of(blocks[i].block, incarnation{77}, identity)));
    parent = blocks[i].hash;
  }
  EXPECT_TRUE(computed(request(2, 30)).empty()) << "they are known here";
  writer.engine->offer_blocks(false);
  auto other = make_request(3, make_prompt(8, 30), 2);
  EXPECT_TRUE(writer.engine->add(other, writer.now));
  while (writer.engine->has_work()) EXPECT_TRUE(writer.step().happened.computed.empty());
}

TEST_F(store_fetch, the_rest_is_computed_and_the_answer_is_the_same) {
  const auto blocks = computed(request(1, 30));
  const auto expected = run_alone(request(1, 30)).ids();
  auto r = request(2, 30);
  r.from_store = true;
  ASSERT_TRUE(reader.engine->add_remote(r, reader.now));
  fetch(r, blocks, 5);
  EXPECT_FALSE(reader.engine->has_work()) << "it waits for what else the store has";
  reader.engine->remote_failed(r.id, 0, reader.now);
  reader.run();
  EXPECT_EQ(reader.of(2).ids(), expected);
  EXPECT_EQ(reader.of(2).end->usage.cached_tokens, 20u);
  EXPECT_EQ(reader.of(2).end->usage.transferred_tokens, 0u);
  EXPECT_EQ(reader.engine->stats().prefill_tokens, 10u);
}

TEST_F(store_fetch, a_damaged_block_ends_the_fetch_and_is_computed) {
  const auto blocks = computed(request(1, 30));
  auto r = request(2, 30);
  r.from_store = true;
  ASSERT_TRUE(reader.engine->add_remote(r, reader.now));
  fetch(r, blocks, 4, true);
  reader.engine->remote_failed(r.id, 0, reader.now);  // late, and nothing more happens
  reader.run();
  EXPECT_EQ(reader.of(2).ids(), run_alone(request(1, 30)).ids());
  EXPECT_EQ(reader.of(2).end->usage.cached_tokens, 12u);
  EXPECT_EQ(reader.engine->stats().fence_failures, 1u);
}

TEST_F(store_fetch, a_prefill_node_fetches_and_announces_every_block_as_its_own) {
  const auto blocks = computed(request(1, 30));
  auto r = request(2, 30);
  r.from_store = true;
  r.prefill_only = true;
  ASSERT_TRUE(reader.engine->add_remote(r, reader.now));
  fetch(r, blocks, 7);
  reader.engine->remote_failed(r.id, 0, reader.now);
  reader.run();
  const auto& a = reader.of(2);
  ASSERT_EQ(a.tokens.size(), 1u);
  EXPECT_EQ(a.tokens[0].token, run_alone(request(1, 30)).ids()[0]);
  std::uint32_t announced = 0;
  for (const auto& e : a.blocks)
    for (const auto& d : e.blocks) {
      ++announced;
      EXPECT_TRUE(transport::verify(
          reader.runner.block(d.block).first(reader.runner.layout().payload_bytes() + 64),
          tag_of(d, incarnation{77}, identity)));
    }
  EXPECT_EQ(announced, 8u);
  EXPECT_TRUE(a.blocks.back().last);
}

TEST_F(store_fetch, fetched_blocks_are_not_offered_again) {
  const auto blocks = computed(request(1, 30));
  reader.engine->offer_blocks(true);
  auto r = request(2, 30);
  r.from_store = true;
  ASSERT_TRUE(reader.engine->add_remote(r, reader.now));
  fetch(r, blocks, 5);
  reader.engine->remote_failed(r.id, 0, reader.now);
  std::vector<std::uint32_t> offered;
  while (reader.engine->has_work())
    for (const auto& c : reader.step().happened.computed) offered.push_back(c.index);
  EXPECT_EQ(offered, (std::vector<std::uint32_t>{5, 6, 7}));
}

TEST_F(store_fetch, a_request_that_is_canceled_while_it_waits_leaves_nothing) {
  auto r = request(2, 30);
  r.from_store = true;
  ASSERT_TRUE(reader.engine->add_remote(r, reader.now));
  reader.engine->cancel(r.id, reader.now);
  reader.run();
  EXPECT_EQ(reader.of(2).end->reason, finish_reason::abort);
  EXPECT_TRUE(
      reader.engine->start_pull(r.id, 0, 0, std::vector<block_descriptor>(3)).pieces.empty());
  EXPECT_EQ(reader.engine->stats().blocks_free, 64u);
}

}  // namespace
}  // namespace troupe::engine::testing
