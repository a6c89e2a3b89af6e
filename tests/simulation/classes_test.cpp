// The 26 classes of failure that the trackers of other disaggregated servers tell of, each as a cluster in which it
// would show. Every schedule also keeps every invariant of world_invariants.cpp: right tokens, one state a block,
// bounds, nothing left. Where a class cannot occur by construction, the test exercises the construct.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "actors/membership_table.hpp"
#include "tests/simulation/sweep.hpp"

namespace troupe::simulation {
namespace {

// -- blocks and who writes into them -------------------------------------------------------------------------------------

// sglang#24527, vllm#32255: an abort frees blocks while a remote write is under way, and the next request's KV is
// overwritten. Here block_pool::unref() makes a block with a pull in flight quarantined; only end_pull() frees it.
TEST(failure_class, c01_abort_while_blocks_are_on_their_way) {
  auto s = with_requests(cluster(1, 1), 8, 32, milliseconds(5));
  s.num_blocks = 24;
  const auto t = sweep(s, [](scenario& x, random& r) {
    for (auto& q : x.requests)
      if (r.below(2) == 0) q.cancel_after = milliseconds(3 + r.below(40));
  });
  EXPECT_GT(t.canceled, 0u);
  EXPECT_GT(t.answered, 0u);
}

// vllm PR 56104: of several transfer handles of one request the first that fails frees blocks into which its siblings
// still write. Here a pull is one operation of the engine: pull_ended() frees the pieces of that pull only.
TEST(failure_class, c02_one_of_several_pulls_fails) {
  auto s = with_requests(cluster(1, 1), 6, 36);
  s.fabric.fail = 0.4;
  const auto t = sweep(s);
  expect_all_answered(t);
  EXPECT_GT(t.fence_failures, 0u);
}

// vllm#52234, vllm-ascend#15420: the owner reuses a block under a reader, who takes the previous prompt's KV for its
// own. Here the fence states owner, generation and sum, and block_puller::finish() verifies its own copy.
TEST(failure_class, c03_the_owner_reuses_a_block_under_its_reader) {
  auto s = with_requests(cluster(2, 1), 10, 32, milliseconds(60));
  s.num_blocks = 18;
  s.lease = milliseconds(150);
  s.prefix_caching = false;
  s.fabric.gigabytes_per_second = 4e-6;
  const auto t =
      sweep(s, at_any_moment({fault_kind::cut_fabric, {}, milliseconds(1200), 1, 3}, 200));
  expect_all_answered(t);
  if (seeds >= 40) {  // few seeds do not hit the moment
    EXPECT_GT(t.fence_failures, 0u);
  }
}

// vllm#52276, smg#2382: KV that failed to load is answered as HTTP 200 with garbage. Here a piece that does not verify
// makes the engine compute the rest (engine_impl::compute_here).
TEST(failure_class, c04_every_pull_is_corrupted) {
  auto s = with_requests(cluster(1, 1), 6, 32);
  s.fabric.corrupt = 1;
  const auto t = sweep(s);
  expect_all_answered(t);
  EXPECT_GT(t.fence_failures, 0u);
  EXPECT_EQ(t.blocks_pulled, 0u);
}

// sglang#30233: prefill gives up and decode goes on with what it has. Here a request leaves waiting_for_remote_kv only
// with every block and the first token, or for computing the rest (join_if_complete, compute_here).
TEST(failure_class, c05_prefill_gives_up_half_way) {
  auto s = with_requests(cluster(1, 1), 8, 36, milliseconds(4));
  s.num_blocks = 40;
  s.max_prefill_chunk = 4;
  expect_all_answered(sweep(s, at_any_moment({fault_kind::lose_device, {}, {}, 2, 0}, 40)));
}

// -- what is never given back --------------------------------------------------------------------------------------------

// vllm#50425, llm-d: the client leaves after prefill has finished and before decode knows. Here the gateway's DOWN
// cancels at decode, whose end_remote() releases at prefill.
TEST(failure_class, c06_the_client_leaves_between_prefill_and_decode) {
  auto s = with_requests(cluster(1, 1), 6, 32);
  const auto t = sweep(s, at_any_moment({fault_kind::kill_client, {}, {}, 0, 0}, 120));
  EXPECT_GT(t.client_gone, 0u);
}

// vllm#46283: prefill dies, the completion never comes, decode holds the blocks for ever. Here every pull has a
// deadline (block_puller::pull) and ends in exactly one pull_done.
TEST(failure_class, c07_prefill_vanishes_under_a_pull) {
  auto s = with_requests(cluster(1, 1), 6, 36);
  expect_all_answered(
      sweep(s, at_any_moment({fault_kind::vanish, {}, milliseconds(7000), 2, 0}, 90)));
}

// TensorRT-LLM PR 12313: cleaning up runs only when new work comes, so a leak that blocks new work is for ever. Here
// next_deadline() wakes the engine without work; nothing is asked after the fault, and nothing may be left.
TEST(failure_class, c08_a_reader_vanishes_and_no_work_follows) {
  auto s = with_requests(cluster(1, 1), 3, 36, milliseconds(1));
  const auto t = sweep(s, at_any_moment({fault_kind::vanish, {}, milliseconds(9000), 1, 0}, 60));
  EXPECT_EQ(t.violations, 0u);
}

// A reader's link to a store ends before its release was sent, and the reader lives on. Here the store's table of readers
// follows the leases, which end by themselves; world_stores.cpp asks that none is left.
TEST(failure_class, a_release_is_lost_with_its_link) {
  auto s = with_requests(cluster(2, 0), 12, 32);
  s.num_stores = 1;
  s.num_blocks = 20;
  s.network.lose_releases = 1;
  const auto t = sweep(s);
  expect_all_answered(t);
  EXPECT_GT(t.store_hits, 0u) << t.table(1);
}

// TensorRT-LLM#12542: a block is evicted between announcing and sending. Here announced blocks are referenced until
// released (state held), and only blocks without references are evicted.
TEST(failure_class, c09_eviction_between_announcing_and_reading) {
  auto s = with_requests(cluster(2, 1), 14, 32, milliseconds(8));
  s.num_blocks = 20;
  s.prefix_caching = true;
  expect_all_answered(sweep(s));
}

// TensorRT-LLM#17665, ROCm/mori#655: one lost completion is an infinite wait. Here it is a deadline.
TEST(failure_class, c10_completions_are_lost) {
  auto s = with_requests(cluster(1, 1), 5, 32);
  s.fabric.drop = 0.7;
  expect_all_answered(sweep(s));
}

// TensorRT-LLM PR 14565: the timeout path frees what the late completion touches. Here an operation is a number in
// a map (block_puller::running_), and what comes late finds nothing. Run under AddressSanitizer too.
TEST(failure_class, c11_completions_come_after_the_deadline) {
  auto s = with_requests(cluster(1, 1), 5, 32);
  s.fabric.late = 0.6;
  s.fabric.late_factor = 2000;
  expect_all_answered(sweep(s));
}

// -- peers that come back ------------------------------------------------------------------------------------------------

// smg#2382, nixl#1987, Mooncake#3584: a peer restarts at the same address and the fleet is stuck with stale endpoints.
// Here a peer is its incarnation (peer_set, fabric addresses, the fence's owner).
TEST(failure_class, c12_a_peer_restarts_at_the_same_address) {
  auto s = with_requests(cluster(2, 1), 16, 32, milliseconds(40));
  const auto t = sweep(s, [](scenario& x, random& r) {
    for (int i = 0; i < 3; ++i)
      x.faults.push_back({r.below(2) == 0 ? fault_kind::kill : fault_kind::vanish,
                          milliseconds(r.below(500)), milliseconds(r.below(200)), 3, 0});
  });
  expect_all_answered(t);
}

// A node is killed and started again while the server is stopped. What the server then still believes leads to the new
// process at the old address, and must not be kept under the old incarnation.
TEST(failure_class, c12_a_node_restarts_while_the_server_sleeps) {
  auto s = with_requests(cluster(1, 1), 16, 24, milliseconds(50));
  s.faults.push_back({fault_kind::pause, milliseconds(200), milliseconds(2500), 0, 0});
  const auto t = sweep(s, [](scenario& x, random& r) {
    x.faults.push_back({r.below(2) == 0 ? fault_kind::kill : fault_kind::drain,
                        milliseconds(150 + r.below(300)),
                        {},
                        1,
                        0});
  });
  EXPECT_EQ(t.answered + t.failed + t.connection_lost, t.requests);
}

// vllm-backport#33: a connection dies and its errors are swallowed. Here silence closes it, the agent joins again, and
// the quiet cluster must list every node.
TEST(failure_class, c13_a_connection_dies_and_heals) {
  auto s = with_requests(cluster(2, 1), 10, 24, milliseconds(50));
  s.faults.push_back({fault_kind::cut_both, milliseconds(100), milliseconds(7000), 1, 0});
  const auto t = sweep(s, at_any_moment({fault_kind::cut, {}, milliseconds(7000), 3, 2}, 200));
  EXPECT_EQ(t.answered + t.failed, t.requests);
}

// vllm#43523, llm-d#2433: peers of different layouts crash, hang or answer wrongly. Here identities are compared when a
// node joins and in every prefill_request, and the refusal names both.
TEST(failure_class, c14_layouts_differ) {
  actors::membership_table table(actors::membership_options{});
  actors::node_info a, b;
  a.name = "decode-0";
  a.start = 1;
  a.kv_identity = "aa";
  a.identity_text = "KV f16, blocks of 16";
  b = a;
  b.name = "prefill-0";
  b.start = 2;
  b.kind = actors::role::prefill;
  b.kv_identity = "bb";
  b.identity_text = "KV f16, blocks of 32";
  EXPECT_EQ(table.join(a, time_point{}).code, ec::none);
  const auto refused = table.join(b, time_point{});
  EXPECT_EQ(refused.code, ec::identity_mismatch);
  EXPECT_NE(refused.detail.find("blocks of 16"), std::string::npos);
  EXPECT_NE(refused.detail.find("blocks of 32"), std::string::npos);
}

// sglang#23272, #9266: fails only under load that lasts. Here queues are bounded and refuse; nothing is left after.
TEST(failure_class, c15_load_that_lasts) {
  auto s = with_requests(cluster(2, 2), 80, 30, milliseconds(6));
  s.num_blocks = 30;
  s.max_waiting = 6;
  const auto t = sweep(s);
  EXPECT_EQ(t.answered + t.failed, t.requests);
  EXPECT_GT(t.answered, t.requests / 2);
  for (const auto& [code, n] : t.failures)
    EXPECT_TRUE(code == "queue_full" || code == "overloaded" || code == "out_of_memory") << code;
}

// nixl 4b9cb880f: a slow path is taken silently. Here every answer names the path of its blocks.
TEST(failure_class, c16_the_path_is_told) {
  const auto t = sweep(with_requests(cluster(1, 1), 4, 32));
  expect_all_answered(t);
  EXPECT_GT(t.blocks_pulled, 0u);
  EXPECT_EQ(t.paths.size(), 1u);
  EXPECT_EQ(t.paths.count("sim"), 1u);
}

// nixl#1673: another UCX is picked up in the process. Here one folder knows UCX and nobody else can call it.
TEST(failure_class, c17_one_folder_knows_ucx) {
  const std::filesystem::path top = TROUPE_SOURCE_DIR;
  int seen = 0;
  for (const char* room : {"base", "model", "engine", "gpu", "transport", "actors", "api"})
    for (const auto& f : std::filesystem::recursive_directory_iterator(top / room)) {
      if (!f.is_regular_file() || f.path().string().find("transport/ucx/") != std::string::npos)
        continue;
      std::ifstream in(f.path());
      const std::string text((std::istreambuf_iterator<char>(in)), {});
      EXPECT_EQ(text.find("<ucp/"), std::string::npos) << f.path();
      ++seen;
    }
  EXPECT_GT(seen, 100);
}

// nixl#1210, Mooncake#1845: endpoints, registrations and keys pile up. Here what is left of dead peers is counted when
// the cluster is quiet.
TEST(failure_class, c18_nothing_piles_up_over_restarts) {
  auto s = with_requests(cluster(1, 2), 20, 28, milliseconds(60));
  for (int i = 0; i < 8; ++i)
    s.faults.push_back({fault_kind::kill, milliseconds(100 + 130 * i), milliseconds(60),
                        static_cast<std::uint32_t>(2 + i % 2), 0});
  expect_all_answered(sweep(s));
}

// nixl#1880: shutdown spins for ever with requests pending. Here a node that drains leaves when the last has ended.
TEST(failure_class, c19_leaving_with_requests_under_way) {
  auto s = with_requests(cluster(2, 1), 12, 30, milliseconds(20));
  const auto t = sweep(s, [](scenario& x, random& r) {
    x.faults.push_back({fault_kind::drain, milliseconds(r.below(200)), {}, 1, 0});
    x.faults.push_back({fault_kind::drain, milliseconds(r.below(200)), {}, 3, 0});
  });
  expect_all_answered(t);
}

// nixl#1811: locks are misused on error paths only. Here state belongs to one actor or one thread, and the error paths
// are the simulator's daily work.
TEST(failure_class, c20_error_paths_all_day) {
  auto s = with_requests(cluster(1, 1), 8, 32);
  s.fabric.fail = s.fabric.connect_fail = s.fabric.corrupt = s.fabric.truncate = 0.3;
  expect_all_answered(sweep(s));
}

// -- caches, pins, leases ------------------------------------------------------------------------------------------------

// LMCache#4385, TensorRT-LLM#8813: a cache returns another session's KV. Here a block's address hashes everything
// before it, and the index compares the tokens too (prefix_index::find).
TEST(failure_class, c21_sessions_share_only_what_is_equal) {
  auto s = with_requests(cluster(1, 1), 16, 34, milliseconds(30));
  s.prefix_caching = true;
  s.num_blocks = 30;
  expect_all_answered(sweep(s));
}

// LMCache#1337: pins are not undone when a reservation fails half way. Here kv_cache::admit_as() counts before it takes.
TEST(failure_class, c22_reservations_fail_for_want_of_blocks) {
  auto s = with_requests(cluster(1, 1), 14, 34, milliseconds(2));
  s.num_blocks = 14;
  const auto t = sweep(s);
  EXPECT_EQ(t.answered + t.failed, t.requests);
  EXPECT_GT(t.answered, 0u);
}

// vLLM's lease design: the table is swept in order and left early although deadlines are not in order. Here every
// sweep looks at all of held_.
TEST(failure_class, c23_leases_that_end_out_of_order) {
  auto s = with_requests(cluster(2, 1), 6, 28, milliseconds(10));
  for (std::size_t i = 0; i < s.requests.size(); ++i)
    s.requests[i].timeout = milliseconds(9000 - 1400 * static_cast<int>(i));
  const auto t = sweep(s, [](scenario& x, random& r) {
    for (std::uint32_t d : {1u, 2u})
      x.faults.push_back(
          {fault_kind::cut_both, milliseconds(r.below(60)), milliseconds(3000), d, 3});
  });
  EXPECT_EQ(t.answered + t.failed, t.requests);
}

// vLLM#43094: a client strips tokens from the middle, and cached KV is used at the wrong positions. Here a changed token
// changes the address of every block behind it. Prompts of one family share the beginning and differ from the middle on.
TEST(failure_class, c24_prompts_that_differ_in_the_middle) {
  auto s = cluster(1, 1);
  s.prefix_caching = true;
  for (std::uint32_t i = 0; i < 12; ++i) {
    request q;
    q.at = milliseconds(40 * i);
    q.family = 1;
    q.prompt_tokens = 36 - i;
    q.max_tokens = 5;
    s.requests.push_back(q);
  }
  expect_all_answered(sweep(s));
}

// -- who knows whom ------------------------------------------------------------------------------------------------------

// dynamo#2800, #10729: the router's state is lost or stale after a restart, late workers are never seen. Here the
// directory holds nothing that nodes do not give again; the quiet cluster must list every node.
TEST(failure_class, c25_directory_and_router_restart) {
  auto s = with_requests(cluster(2, 1), 20, 24, milliseconds(120));
  const auto t = sweep(s, at_any_moment({fault_kind::kill, {}, milliseconds(300), 0, 0}, 1500));
  EXPECT_GT(t.answered, t.requests / 2);
  EXPECT_EQ(t.answered + t.failed + t.connection_lost, t.requests);
}

// Mooncake#2253, #1871: a control plane that is stopped is not noticed. Here silence closes its connections, nodes serve
// on, and all is as before when it returns.
TEST(failure_class, c26_the_control_plane_is_stopped) {
  auto s = with_requests(cluster(2, 1), 10, 24, milliseconds(80));
  const auto t = sweep(s, at_any_moment({fault_kind::pause, {}, milliseconds(30'000), 0, 0}, 600));
  EXPECT_EQ(t.answered + t.failed + t.connection_lost, t.requests);
}

// -- faults in the product: issue 5, point 4 -----------------------------------------------------------------------------

TEST(failover, prefill_dies_at_any_moment) {
  auto s = with_requests(cluster(1, 2), 6, 36);
  expect_all_answered(
      sweep(s, at_any_moment({fault_kind::kill, {}, milliseconds(2000), 2, 0}, 90)));
}

TEST(failover, decode_dies_and_the_text_goes_on) {
  auto s = with_requests(cluster(2, 1), 8, 28, milliseconds(5));
  const auto t = sweep(s, at_any_moment({fault_kind::kill, {}, milliseconds(2000), 1, 0}, 80));
  expect_all_answered(t);
  EXPECT_GT(t.migrated, 0u);
}

TEST(failover, decode_vanishes_and_the_text_goes_on) {
  auto s = with_requests(cluster(2, 1), 8, 28, milliseconds(5));
  const auto t = sweep(s, at_any_moment({fault_kind::vanish, {}, milliseconds(8000), 1, 0}, 80));
  expect_all_answered(t);
  EXPECT_GT(t.migrated, 0u);
}

// An ECC error, a failed kernel, a GPU off the bus: its passes fail from then on, the node leaves.
TEST(failover, a_decodes_device_fails_and_the_text_goes_on) {
  auto s = with_requests(cluster(2, 1), 8, 28, milliseconds(5));
  s.device = device_kind::hashes;
  const auto t = sweep(s, at_any_moment({fault_kind::lose_device, {}, {}, 1, 0}, 80));
  expect_all_answered(t);
  EXPECT_GT(t.migrated, 0u);
}

TEST(failover, a_stopped_decode_is_dead_and_harmless_when_it_returns) {
  auto s = with_requests(cluster(2, 1), 8, 28, milliseconds(5));
  s.faults.push_back({fault_kind::pause, milliseconds(30), milliseconds(30'000), 1, 0});
  const auto t = sweep(s);
  expect_all_answered(t);
  EXPECT_GT(t.migrated, 0u);
}

TEST(failover, a_stopped_prefill_is_dead_and_harmless_when_it_returns) {
  auto s = with_requests(cluster(2, 1), 8, 36, milliseconds(5));
  expect_all_answered(
      sweep(s, at_any_moment({fault_kind::pause, {}, milliseconds(30'000), 3, 0}, 60)));
}

TEST(failover, every_node_is_restarted_in_turn_and_no_request_is_lost) {
  auto s = with_requests(cluster(2, 2), 40, 24, milliseconds(100));
  for (std::uint32_t n = 1; n <= 4; ++n)
    s.faults.push_back({fault_kind::drain, milliseconds(200 + 900 * (n - 1)), {}, n, 0});
  expect_all_answered(sweep(s));
}

// -- what a fabric and clocks may do beside the classes: issue 5, point 1 -------------------------------------------------

TEST(fabric, completions_come_twice) {
  auto s = with_requests(cluster(2, 1), 8, 32);
  s.fabric.duplicate_completion = 0.6;
  const auto t = sweep(s);
  expect_all_answered(t);
  EXPECT_GT(t.blocks_pulled, 0u);
}

// Bits flip, tails are missing, and pulls are late at the same time, on links that hold each other up.
TEST(fabric, everything_at_once) {
  auto s = with_requests(cluster(2, 2), 10, 32);
  s.fabric.corrupt = s.fabric.truncate = s.fabric.drop = s.fabric.late = 0.15;
  s.fabric.late_factor = 500;
  s.network.duplicate = 0.3;
  const auto t = sweep(s);
  expect_all_answered(t);
  EXPECT_GT(t.blocks_pulled, 0u);
  EXPECT_GT(t.fence_failures, 0u);
}

// A node that is started again gets no memory for its blocks, and is started once more.
TEST(fabric, memory_is_refused_to_who_restarts) {
  auto s = with_requests(cluster(2, 1), 12, 28, milliseconds(120));
  s.fabric_weather.refuse_memory = 0.7;
  s.faults.push_back({fault_kind::weather, milliseconds(0), milliseconds(3000), 0, 0});
  const auto t = sweep(s, [](scenario& x, random& r) {
    for (std::uint32_t n : {1u, 3u})
      x.faults.push_back({fault_kind::kill, milliseconds(r.below(800)), milliseconds(50), n, 0});
  });
  expect_all_answered(t);
}

// Ten minutes apart, and ten percent fast or slow.
TEST(clocks, no_two_agree) {
  auto s = with_requests(cluster(2, 2), 10, 32);
  s.lease = milliseconds(1500);
  const auto t = sweep(s, [](scenario& x, random& r) {
    for (int i = 0; i < 4; ++i)
      x.skew.push_back({milliseconds(r.below(600'000)), 0.9 + 0.2 * r.fraction()});
    x.faults.push_back(
        {fault_kind::cut_both, milliseconds(r.below(100)), milliseconds(2500), 1, 3});
  });
  expect_all_answered(t);
  EXPECT_GT(t.blocks_pulled, 0u);
}

}  // namespace
}  // namespace troupe::simulation
