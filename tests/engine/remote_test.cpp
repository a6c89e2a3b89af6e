// Prompts computed by a peer: a second engine in this test, with its own arena; pulls are copies that end when the test
// says so.
#include <gmock/gmock.h>

#include <algorithm>
#include <deque>

#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

using std::chrono::milliseconds;

struct remote : ::testing::Test {
  engine_fixture decode{64}, prefill{64};

  generation_request request(std::uint64_t id, std::uint32_t length) {
    auto r = make_request(id, make_prompt(id, length), 10);
    r.sampling.ignore_eos = true;
    return r;
  }
  // The peer's whole part: all of its blocks and the first token.
  answer& compute_at_peer(generation_request r) {
    r.prefill_only = true;
    EXPECT_TRUE(prefill.engine->add(r, prefill.now));
    prefill.run();
    return prefill.of(raw(r.id), r.try_number);
  }
  static std::vector<block_descriptor> all_blocks(const answer& a) {
    std::vector<block_descriptor> blocks;
    for (const auto& e : a.blocks) blocks.insert(blocks.end(), e.blocks.begin(), e.blocks.end());
    return blocks;
  }
  // Copies as a pull does, and verifies as a reader must.
  std::vector<bool> transfer(const pull_plan& plan) {
    std::vector<bool> ok;
    for (const pull_piece& p : plan.pieces) {
      std::ranges::copy(prefill.runner.block(p.remote), decode.runner.block(p.local).begin());
      ok.push_back(transport::verify(decode.runner.block(p.local).first(
                                         decode.runner.layout().payload_bytes() + 64),
                                     tag_of(p.expected, incarnation{77}, identity))
                       .has_value());
    }
    return ok;
  }
  void end(const pull_plan& plan, const std::vector<bool>& ok) {
    decode.engine->pull_ended(plan.id, ok, plan.pieces.size() * 96, {}, decode.now);
    EXPECT_EQ(decode.engine->check_invariants(), "");
  }
  void expect_all_free() {
    const engine_stats s = decode.engine->stats();
    EXPECT_EQ(s.blocks_free + s.blocks_cached, 64u);
    EXPECT_EQ(s.running + s.waiting + s.waiting_remote + s.held, 0u);
  }
};

TEST_F(remote, the_answer_is_the_local_one) {
  for (std::uint32_t length : {1u, 3u, 4u, 5u, 16u, 37u}) {
    const auto r = request(length, length);
    const auto expected = run_alone(r).ids();
    const auto reservation = decode.engine->add_remote(r, decode.now);
    ASSERT_TRUE(reservation);
    EXPECT_EQ(reservation->first_block, 0u);
    EXPECT_EQ(reservation->num_blocks, (length + 3) / 4);
    const answer& peer = compute_at_peer(r);
    ASSERT_EQ(peer.tokens.size(), 1u);
    EXPECT_FALSE(peer.end) << "its blocks are held";
    const auto plan = decode.engine->start_pull(r.id, 0, 0, all_blocks(peer));
    ASSERT_EQ(plan.pieces.size(), reservation->num_blocks);
    decode.engine->remote_first_token(r.id, 0, peer.tokens[0], decode.now);
    decode.run();
    EXPECT_EQ(decode.of(length).ids(), std::vector(expected.begin(), expected.begin() + 1))
        << "the first token does not wait for the transfer";
    decode.now += milliseconds(5);
    end(plan, transfer(plan));
    decode.run();
    EXPECT_EQ(decode.of(length).ids(), expected) << "prompt of " << length;
    ASSERT_TRUE(decode.of(length).end);
    EXPECT_EQ(decode.of(length).end->usage.transferred_tokens, length);
    EXPECT_EQ(decode.of(length).end->usage.transfer_bytes, plan.pieces.size() * 96);
    EXPECT_EQ(decode.of(length).end->usage.prefill_us, 0u);
    prefill.engine->release(r.id, prefill.now);
    prefill.run();
    EXPECT_EQ(prefill.of(length).end->reason, finish_reason::stop);
  }
  EXPECT_EQ(decode.engine->stats().prefill_tokens, 0u);
  expect_all_free();
}

TEST_F(remote, chunks_are_announced_in_order_and_pulled_in_any) {
  const auto r = request(1, 50);
  const auto expected = run_alone(r).ids();
  ASSERT_TRUE(decode.engine->add_remote(r, decode.now));
  const answer& peer = compute_at_peer(r);
  ASSERT_GT(peer.blocks.size(), 2u);
  std::uint32_t next = 0;
  for (const auto& e : peer.blocks) {
    EXPECT_EQ(e.first_block, next);
    next += static_cast<std::uint32_t>(e.blocks.size());
    EXPECT_EQ(e.last, &e == &peer.blocks.back());
  }
  EXPECT_EQ(next, 13u);
  EXPECT_EQ(peer.blocks.back().blocks.back().valid_tokens, 2u);
  std::vector<pull_plan> plans;
  for (auto e = peer.blocks.rbegin(); e != peer.blocks.rend(); ++e) {
    plans.push_back(decode.engine->start_pull(r.id, 0, e->first_block, e->blocks));
    EXPECT_EQ(plans.back().pieces.size(), e->blocks.size());
    EXPECT_TRUE(decode.engine->start_pull(r.id, 0, e->first_block, e->blocks).pieces.empty())
        << "under way";
  }
  std::swap(plans[0], plans[1]);
  for (const auto& plan : plans) end(plan, transfer(plan));
  for (const auto& e : peer.blocks)
    EXPECT_TRUE(decode.engine->start_pull(r.id, 0, e.first_block, e.blocks).pieces.empty())
        << "is here";
  for (const auto& plan : plans)
    end(plan, std::vector<bool>(plan.pieces.size(), true));  // reported twice
  decode.run();
  EXPECT_TRUE(decode.of(1).tokens.empty()) << "the first token is not here";
  decode.engine->remote_first_token(r.id, 0, peer.tokens[0], decode.now);
  decode.engine->remote_first_token(r.id, 0, peer.tokens[0], decode.now);
  decode.run();
  EXPECT_EQ(decode.of(1).ids(), expected);
}

TEST_F(remote, what_does_not_fit_is_left_out) {
  const auto r = request(1, 10);
  ASSERT_TRUE(decode.engine->add_remote(r, decode.now));
  const auto blocks = all_blocks(compute_at_peer(r));
  auto& e = *decode.engine;
  EXPECT_TRUE(e.start_pull(request_id{2}, 0, 0, blocks).pieces.empty());
  EXPECT_TRUE(e.start_pull(r.id, 1, 0, blocks).pieces.empty()) << "another attempt";
  EXPECT_TRUE(e.start_pull(r.id, 0, 3, blocks).pieces.empty()) << "beyond the table";
  EXPECT_TRUE(e.start_pull(r.id, 0, ~0u, blocks).pieces.empty());
  EXPECT_EQ(e.start_pull(r.id, 0, 2, blocks).pieces.size(), 0u)
      << "a full block where a partial one belongs";
  e.pull_ended(pull_id{999}, {true}, 1, {}, decode.now);
  e.remote_first_token(r.id, 1, {0, 5, 0, {}}, decode.now);
  e.remote_first_token(r.id, 0, {1, 5, 0, {}}, decode.now);
  e.remote_first_token(r.id, 0, {0, 40, 0, {}}, decode.now);
  e.remote_failed(r.id, 1, decode.now);
  EXPECT_FALSE(e.has_work());
  EXPECT_EQ(e.check_invariants(), "");
  EXPECT_EQ(e.stats().blocks_pulling, 3u);
}

TEST_F(remote, blocks_under_a_pull_outlive_a_canceled_request) {
  engine_fixture small(8);
  const auto r = request(1, 16);
  ASSERT_TRUE(small.engine->add_remote(r, small.now));
  const auto blocks = all_blocks(compute_at_peer(r));
  const auto plan = small.engine->start_pull(r.id, 0, 0, std::span(blocks).first(3));
  ASSERT_EQ(plan.pieces.size(), 3u);
  small.engine->cancel(r.id, small.now);
  EXPECT_EQ(small.engine->stats().blocks_quarantined, 3u);
  EXPECT_EQ(small.engine->stats().blocks_free, 5u);
  // Another request takes everything that may be taken; the late pull then writes into its own blocks only.
  auto other = request(2, 12);
  const auto expected = run_alone(other).ids();
  ASSERT_TRUE(small.engine->add(other, small.now));
  for (int i = 0; i < 4; ++i) small.step();
  for (const auto& p : plan.pieces) std::ranges::fill(small.runner.block(p.local), std::byte{0xee});
  small.engine->pull_ended(plan.id, {true, true, true}, 0, {}, small.now);
  EXPECT_EQ(small.engine->stats().blocks_quarantined, 0u);
  small.run();
  EXPECT_EQ(small.of(2).ids(), expected);
  EXPECT_EQ(small.of(1).end->reason, finish_reason::abort);
}

TEST_F(remote, a_late_pull_is_not_taken_for_one_of_a_new_request_of_the_same_name) {
  const auto r = request(1, 16);
  const auto expected = run_alone(r).ids();
  const answer& peer = compute_at_peer(r);
  const auto blocks = all_blocks(peer);
  ASSERT_TRUE(decode.engine->add_remote(r, decode.now));
  const auto late = decode.engine->start_pull(r.id, 0, 0, blocks);
  decode.engine->cancel(r.id, decode.now);
  decode.step();
  decode.answers.clear();
  ASSERT_TRUE(decode.engine->add_remote(r, decode.now));
  decode.engine->remote_first_token(r.id, 0, peer.tokens[0], decode.now);
  end(late, transfer(late));  // into the old blocks
  decode.run();
  EXPECT_EQ(decode.of(1).tokens.size(), 1u) << "nothing arrived for this one";
  const auto plan = decode.engine->start_pull(r.id, 0, 0, blocks);
  ASSERT_EQ(plan.pieces.size(), 4u);
  end(plan, transfer(plan));
  decode.run();
  EXPECT_EQ(decode.of(1).ids(), expected);
}

TEST_F(remote, only_the_first_token_comes_from_the_peer) {
  const auto r = request(1, 16);
  const auto expected = run_alone(r).ids();
  ASSERT_TRUE(decode.engine->add_remote(r, decode.now));
  const answer& peer = compute_at_peer(r);
  decode.engine->remote_first_token(r.id, 0, peer.tokens[0], decode.now);
  token_output second = peer.tokens[0];
  second.index = 1;
  decode.engine->remote_first_token(r.id, 0, second, decode.now);
  decode.engine->remote_failed(r.id, 0, decode.now);
  decode.run();
  EXPECT_EQ(decode.of(1).ids(), expected);
}

TEST_F(remote, a_failure_keeps_what_arrived_in_order) {
  for (bool with_token : {false, true}) {
    const auto r = request(with_token ? 1 : 2, 38);
    const auto expected = run_alone(r).ids();
    ASSERT_TRUE(decode.engine->add_remote(r, decode.now));
    const answer& peer = compute_at_peer(r);
    const auto blocks = all_blocks(peer);
    const auto first = decode.engine->start_pull(r.id, 0, 0, std::span(blocks).first(4));
    const auto gap = decode.engine->start_pull(r.id, 0, 6, std::span(blocks).subspan(6));
    end(first, transfer(first));
    end(gap, transfer(gap));
    if (with_token) decode.engine->remote_first_token(r.id, 0, peer.tokens[0], decode.now);
    const auto computed_before = decode.engine->stats().prefill_tokens;
    decode.engine->remote_failed(r.id, 0, decode.now);
    decode.engine->remote_failed(r.id, 0, decode.now);
    EXPECT_EQ(decode.engine->check_invariants(), "");
    decode.run();
    if (!with_token)
      decode.engine->remote_first_token(r.id, 0, peer.tokens[0],
                                        decode.now);  // late: is here already
    decode.run();
    EXPECT_EQ(decode.of(raw(r.id)).ids(), expected);
    EXPECT_EQ(decode.of(raw(r.id)).end->usage.transferred_tokens, 16u);
    EXPECT_EQ(decode.engine->stats().prefill_tokens - computed_before, 22u + with_token);
  }
  expect_all_free();
}

TEST_F(remote, a_block_that_does_not_verify_is_computed_again) {
  const auto r = request(1, 20);
  const auto expected = run_alone(r).ids();
  ASSERT_TRUE(decode.engine->add_remote(r, decode.now));
  const answer& peer = compute_at_peer(r);
  const auto blocks = all_blocks(peer);
  prefill.runner.block(blocks[2].block)[5] ^= std::byte{4};  // flipped at rest
  const auto plan = decode.engine->start_pull(r.id, 0, 0, blocks);
  const auto ok = transfer(plan);
  EXPECT_EQ(ok, (std::vector<bool>{true, true, false, true, true}));
  decode.engine->remote_first_token(r.id, 0, peer.tokens[0], decode.now);
  end(plan, ok);
  decode.run();
  EXPECT_EQ(decode.of(1).ids(), expected);
  EXPECT_EQ(decode.engine->stats().fence_failures, 1u);
  EXPECT_EQ(decode.of(1).end->usage.transferred_tokens, 8u);
}

TEST_F(remote, a_reused_block_of_the_peer_never_verifies) {
  engine_fixture tiny(5);  // the peer's arena, so small that the next prompt takes the same blocks
  auto r = request(1, 16);
  r.prefill_only = true;
  ASSERT_TRUE(tiny.engine->add(r, tiny.now));
  tiny.run();
  const auto blocks = all_blocks(tiny.of(1));
  tiny.now += std::chrono::seconds(31);
  tiny.step();
  EXPECT_TRUE(tiny.of(1).lease_expired);
  EXPECT_EQ(tiny.of(1).end->failure.code, ec::deadline_exceeded);
  const auto verifies = [&](const block_descriptor& d) {
    return transport::verify(
               tiny.runner.block(d.block).first(tiny.runner.layout().payload_bytes() + 64),
               tag_of(d, incarnation{77}, identity))
        .has_value();
  };
  EXPECT_TRUE(std::ranges::all_of(blocks, verifies)) << "cached, not yet overwritten";
  ASSERT_TRUE(tiny.engine->add(request(2, 9), tiny.now));
  tiny.run();
  EXPECT_FALSE(std::ranges::any_of(blocks, verifies));
}

TEST_F(remote, leases_end_by_release_renewal_and_time) {
  for (std::uint64_t id : {1, 2, 3}) compute_at_peer(request(id, 12));
  EXPECT_EQ(prefill.engine->stats().held, 3u);
  EXPECT_FALSE(prefill.engine->has_work());
  prefill.now += milliseconds(20'000);
  prefill.engine->renew(request_id{2}, prefill.now);
  prefill.engine->release(request_id{3}, prefill.now);
  prefill.engine->release(request_id{3}, prefill.now);
  prefill.engine->renew(request_id{9}, prefill.now);
  prefill.now += milliseconds(15'000);
  EXPECT_LE(prefill.engine->next_deadline(), prefill.now);
  prefill.step();
  EXPECT_TRUE(prefill.of(1).lease_expired);
  EXPECT_FALSE(prefill.of(2).end);
  EXPECT_EQ(prefill.of(3).end->reason, finish_reason::stop);
  prefill.now += milliseconds(15'001);
  prefill.step();
  EXPECT_TRUE(prefill.of(2).lease_expired);
  EXPECT_EQ(prefill.engine->stats().leases_expired, 2u);
  EXPECT_EQ(prefill.engine->next_deadline(), time_point::max());
}

TEST_F(remote, a_prompt_cached_here_pulls_nothing) {
  const auto r = request(1, 16);
  ASSERT_TRUE(decode.engine->add(request(1, 16), decode.now));
  decode.run();
  auto again = r;
  again.id = request_id{2};
  const auto reservation = decode.engine->add_remote(again, decode.now);
  ASSERT_TRUE(reservation);
  EXPECT_EQ(reservation->first_block, 4u);
  EXPECT_EQ(reservation->num_blocks, 0u);
  const answer& peer = compute_at_peer(again);
  EXPECT_TRUE(decode.engine->start_pull(again.id, 0, 0, all_blocks(peer)).pieces.empty());
  decode.engine->remote_first_token(again.id, 0, peer.tokens[0], decode.now);
  decode.run();
  EXPECT_EQ(decode.of(2).ids(), decode.of(1).ids());
}

TEST_F(remote, an_end_token_as_the_first_ends_the_answer_while_blocks_travel) {
  auto r = request(1, 14);
  r.sampling.stop_token_ids = {run_alone(r).ids()[0]};
  ASSERT_TRUE(decode.engine->add_remote(r, decode.now));
  const answer& peer = compute_at_peer(r);
  ASSERT_EQ(peer.tokens.size(), 1u) << "the peer reports it: the reader decides";
  const auto plan = decode.engine->start_pull(r.id, 0, 0, all_blocks(peer));
  decode.engine->remote_first_token(r.id, 0, peer.tokens[0], decode.now);
  decode.run();
  ASSERT_TRUE(decode.of(1).end);
  EXPECT_EQ(decode.of(1).end->reason, finish_reason::stop);
  EXPECT_EQ(decode.of(1).end->usage.completion_tokens, 1u);
  EXPECT_TRUE(decode.of(1).tokens.empty());
  EXPECT_EQ(decode.engine->stats().blocks_quarantined, 4u);
  end(plan, transfer(plan));
  expect_all_free();
}

TEST_F(remote, a_resumed_request_pulls_its_output_too) {
  auto r = request(1, 10);
  const auto expected = run_alone(r).ids();
  r.try_number = 2;
  r.output.assign(expected.begin(), expected.begin() + 4);
  const auto reservation = decode.engine->add_remote(r, decode.now);
  ASSERT_TRUE(reservation);
  EXPECT_EQ(reservation->num_blocks, 4u);
  const answer& peer = compute_at_peer(r);
  ASSERT_EQ(peer.tokens.size(), 1u);
  EXPECT_EQ(peer.tokens[0].index, 4u);
  const auto plan = decode.engine->start_pull(r.id, 2, 0, all_blocks(peer));
  end(plan, transfer(plan));
  decode.engine->remote_first_token(r.id, 2, peer.tokens[0], decode.now);
  decode.run();
  EXPECT_EQ(decode.of(1, 2).ids(), std::vector(expected.begin() + 4, expected.end()));
}

TEST_F(remote, reservations_are_refused_when_blocks_are_short_or_promised) {
  engine_fixture small(8, {}, [](engine_options& o) { o.max_num_seqs = 1; });
  auto local = request(1, 16);
  ASSERT_TRUE(small.engine->add(local, small.now));
  small.step();
  auto refused = small.engine->add_remote(request(2, 20), small.now);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ec::out_of_memory);
  ASSERT_TRUE(small.engine->add(request(3, 12), small.now));  // waits, needs three
  refused = small.engine->add_remote(request(4, 4), small.now);
  ASSERT_FALSE(refused) << "the block is promised to request 3";
  auto scored = request(5, 4);
  scored.sampling.prompt_logprobs = 1;
  EXPECT_EQ(small.engine->add_remote(scored, small.now).error().code, ec::unsupported);
  small.run();
  EXPECT_EQ(small.of(3).ids(), run_alone(request(3, 12)).ids());
}

TEST_F(remote, reservations_give_way_to_older_requests) {
  engine_fixture small(8, {}, [](engine_options& o) { o.prefix_caching = false; });
  auto local = request(1, 12);
  local.sampling.max_tokens = 16;  // grows to seven blocks
  const auto expected = run_alone(local).ids();
  ASSERT_TRUE(small.engine->add(local, small.now));
  small.step();
  ASSERT_TRUE(small.engine->add_remote(request(2, 12), small.now));
  small.run();
  EXPECT_EQ(small.of(1).ids(), expected);
  EXPECT_GT(small.engine->stats().preemptions, 0u);
  EXPECT_EQ(small.of(2).ids(), run_alone(request(2, 12)).ids()) << "computed here after all";
}

}  // namespace
}  // namespace troupe::engine::testing
