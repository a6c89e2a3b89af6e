// Draft nodes that die, sleep, forget, lose messages and lie: guesses cost or save time, and never a token. Every
// schedule keeps every invariant too: nothing of a sequence is left in a draft or in who talks to it.
#include "tests/simulation/sweep.hpp"

namespace troupe::simulation {
namespace {

constexpr std::uint32_t draft = 2;  // in a cluster of one decode node

// Decode nodes that get so many long answers of short prompts at once, and a draft.
scenario drafted(std::uint32_t decodes, std::uint32_t requests) {
  scenario s;
  s.device = device_kind::peaked_hashes;
  s.num_decode = decodes;
  s.num_prefill = 0;
  s.drafts.num_drafts = 1;
  for (std::uint32_t i = 0; i < requests; ++i)
    s.requests.push_back({milliseconds(i), 0, i % 3, 4 + i % 7, 24, i % 4});
  return s;
}

void expect_guesses(const tally& t) {
  EXPECT_GT(t.draft_drafted, 0u) << t.table(1);
  EXPECT_GT(t.draft_accepted, 0u) << t.table(1);
}

TEST(drafting, some_guesses_are_right_and_some_are_wrong) {
  const auto t = sweep(drafted(1, 6));
  expect_all_answered(t);
  expect_guesses(t);
  EXPECT_GT(t.draft_accepted, t.draft_drafted / 5);
  EXPECT_LT(t.draft_accepted, t.draft_drafted * 9 / 10);
}

// world_invariants.cpp asks that every guess was right, whatever went wrong in between.
TEST(drafting, a_draft_that_computes_the_same_is_never_wrong) {
  auto s = drafted(2, 8);
  s.drafts.other_percent = 0;
  s.drafts.lose = 0.2;
  s.network.duplicate = 0.3;
  const auto t = sweep(s, at_any_moment({fault_kind::kill, {}, milliseconds(300), 1, 0}, 30));
  expect_all_answered(t);
  expect_guesses(t);
}

TEST(drafting, it_dies_and_comes_back_as_another) {
  auto s = drafted(1, 12);
  for (auto& q : s.requests) q.at *= 120;
  const auto t = sweep(s, [](scenario& x, random& r) {
    for (int i = 0; i < 3; ++i)
      x.faults.push_back({r.below(2) == 0 ? fault_kind::kill : fault_kind::vanish,
                          milliseconds(r.below(1400)), milliseconds(r.below(300)), draft, 0});
  });
  expect_all_answered(t);
  expect_guesses(t);
}

TEST(drafting, it_is_stopped_for_half_a_minute) {
  auto s = drafted(1, 6);
  auto later = s.requests;
  for (auto& q : later) q.at += milliseconds(35'000);
  s.requests.insert(s.requests.end(), later.begin(), later.end());
  const auto t =
      sweep(s, at_any_moment({fault_kind::pause, {}, milliseconds(30'000), draft, 0}, 12));
  expect_all_answered(t);
  expect_guesses(t);
}

// The directory loses sight of a draft that its readers still talk to, and counts it in again.
TEST(drafting, the_directory_takes_it_for_dead) {
  auto s = drafted(2, 10);
  for (auto& q : s.requests) q.at *= 700;
  s.faults.push_back({fault_kind::cut_both, milliseconds(300), milliseconds(5000), 3, 0});
  const auto t = sweep(s);
  expect_all_answered(t);
  expect_guesses(t);
}

// Its blocks hold fewer tokens than the sequences that it follows.
TEST(drafting, it_runs_out_of_blocks) {
  auto s = drafted(1, 8);
  s.drafts.num_blocks = 12;
  const auto t = sweep(s);
  expect_all_answered(t);
  expect_guesses(t);
  EXPECT_GT(t.draft_evictions, 0u);
}

TEST(drafting, messages_are_lost_and_come_twice) {
  auto s = drafted(1, 8);
  s.drafts.lose = 0.4;
  s.network.duplicate = 0.5;
  s.network.through_wire = true;
  const auto t = sweep(s);
  expect_all_answered(t);
  expect_guesses(t);
}

// Tokens that no vocabulary has, runs too long, of other requests, for other places, with other lengths of sureness.
TEST(drafting, one_of_two_talks_nonsense) {
  auto s = drafted(2, 12);
  s.drafts.num_drafts = 2;
  s.drafts.liar = true;
  const auto t = sweep(s);
  expect_all_answered(t);
  expect_guesses(t);
}

TEST(drafting, its_device_fails) {
  auto s = drafted(1, 8);
  for (auto& q : s.requests) q.at *= 100;
  const auto t = sweep(s, at_any_moment({fault_kind::lose_device, {}, {}, draft, 0}, 300));
  expect_all_answered(t);
  expect_guesses(t);
}

TEST(drafting, it_is_slow) {
  auto s = drafted(1, 8);
  for (auto& q : s.requests) q.at *= 100;
  s.faults.push_back({fault_kind::slow_device, milliseconds(0), milliseconds(500), draft, 0});
  const auto t = sweep(s);
  expect_all_answered(t);
  expect_guesses(t);
}

TEST(drafting, it_drains_and_is_restarted) {
  auto s = drafted(2, 10);
  for (auto& q : s.requests) q.at *= 100;
  const auto t = sweep(s, at_any_moment({fault_kind::drain, {}, {}, 3, 0}, 500));
  expect_all_answered(t);
  expect_guesses(t);
}

// The other decode node goes on with a text whose end the draft never followed for it.
TEST(drafting, whom_it_guesses_for_dies) {
  auto s = drafted(2, 10);
  const auto t = sweep(s, at_any_moment({fault_kind::vanish, {}, milliseconds(8000), 1, 0}, 15));
  expect_all_answered(t);
  expect_guesses(t);
  EXPECT_GT(t.migrated, 0u);
}

TEST(drafting, readers_cancel_and_leave) {
  auto s = drafted(1, 10);
  s.num_clients = 2;
  const auto t = sweep(s, [](scenario& x, random& r) {
    for (auto& q : x.requests) {
      q.client = static_cast<std::uint32_t>(r.below(2));
      if (r.below(2) == 0) q.cancel_after = milliseconds(1 + r.below(10));
    }
    x.faults.push_back({fault_kind::kill_client, milliseconds(r.below(12)), {}, 1, 0});
  });
  EXPECT_GT(t.canceled, 0u);
  EXPECT_GT(t.client_gone, 0u);
  expect_guesses(t);
}

// They wait for the only decode node to come back and are then given to it as far as it has room; but its engine takes one
// at a time. What it refuses was never followed.
TEST(drafting, requests_are_refused) {
  auto s = drafted(1, 20);
  s.max_waiting = 1;
  s.max_num_seqs = 2;
  s.faults.push_back({fault_kind::kill, milliseconds(0), milliseconds(1000), 1, 0});
  const auto t = sweep(s);
  EXPECT_EQ(t.answered + t.failed, t.requests);
  EXPECT_GT(t.failed, 0u);
  expect_guesses(t);
}

// By measured costs, and only while decoding is faster with it.
TEST(drafting, it_has_to_prove_its_worth) {
  auto s = drafted(1, 30);
  for (auto& q : s.requests) q.at *= 10;
  s.drafts.measured = s.drafts.trial = true;
  s.drafts.other_percent = 10;
  const auto t = sweep(s);
  expect_all_answered(t);
  expect_guesses(t);
}

// -- schedules from seeds ------------------------------------------------------------------------------------------------

class drafts : public ::testing::TestWithParam<int> {};
TEST_P(drafts, are_never_to_blame_for_a_token) {
  const std::uint64_t each = 5 * seeds;
  tally sum;
  for (auto seed = 7000 + each * static_cast<std::uint64_t>(GetParam()), end = seed + each;
       seed < end; ++seed) {
    const auto s = make_scenario(seed, true, emphasis::drafts);
    const auto out = run(s);
    sum.add(s, out);
    if (out.violation.empty()) continue;
    ADD_FAILURE() << report(shrink(s));
    return;
  }
  expect_guesses(sum);
  EXPECT_LT(sum.draft_accepted, sum.draft_drafted);
  EXPECT_GT(sum.answered, sum.failed);
}
INSTANTIATE_TEST_SUITE_P(simulation, drafts, ::testing::Range(0, 2));

TEST(drafting, without_faults_every_request_is_answered) {
  tally sum;
  for (std::uint64_t seed = 1; seed <= 3 * seeds; ++seed) {
    const auto s = make_scenario(seed, false, emphasis::drafts);
    const auto out = run(s);
    ASSERT_EQ(out.violation, "") << report(shrink(s));
    sum.add(s, out);
  }
  expect_all_answered(sum);
  expect_guesses(sum);
}

}  // namespace
}  // namespace troupe::simulation
