// Capacity planning: nothing is lost, one seed is one result, and where queueing theory has a formula, it holds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "actors/capacity/log_histogram.hpp"
#include "actors/capacity/plan.hpp"

namespace troupe::actors {
namespace {

// A pass of n rows takes 1 ms and 20 us a row; a decode's, 4 ms and 100 us a row.
device_profile small_device() {
  device_profile p;
  p.name = "test", p.device = "test";
  p.prompt = {{1, 0.00102}, {1001, 0.02102}};
  p.decode = {{1, 0.0041}, {101, 0.0141}};
  p.block_tokens = 16, p.block_bytes = 1 << 20;
  p.num_blocks = 2000, p.max_model_len = 8192;
  p.link_bytes_per_second = 10e9, p.link_latency_seconds = 20e-6;
  p.message_seconds = 50e-6, p.request_seconds = 200e-6;
  return p;
}

plan_options small_cluster(std::uint32_t prefill, std::uint32_t decode) {
  plan_options o;
  o.num_prefill = prefill, o.num_decode = decode;
  o.prefill = o.decode = small_device();
  return o;
}

std::vector<trace_request> poisson(std::size_t count, double rate, std::uint32_t input,
                                   std::uint32_t output, std::uint64_t seed = 3) {
  std::mt19937_64 chance(seed);
  std::exponential_distribution<double> gap(rate);
  std::vector<trace_request> t;
  double at = 0;
  for (std::size_t i = 0; i < count; ++i) t.push_back({at += gap(chance), input, output, {i}});
  return t;
}

std::uint64_t sum(const std::map<std::string, std::uint64_t>& counts) {
  std::uint64_t all = 0;
  for (const auto& [code, n] : counts) all += n;
  return all;
}

void expect_whole(const plan_report& r) {
  EXPECT_EQ(r.arrivals, r.finished + sum(r.refused));
  EXPECT_LE(r.good, r.finished);
}

TEST(capacity, every_arrival_finishes_or_is_refused) {
  auto trace = poisson(600, 30, 300, 40);
  trace[5].input_length = 9000;  // more than the context
  for (auto [p, d] : {std::pair{0u, 1u}, {1u, 1u}, {2u, 3u}}) {
    const auto r = plan_capacity(trace, small_cluster(p, d));
    ASSERT_TRUE(r) << to_string(r.error());
    EXPECT_EQ(r->arrivals, 600u);
    expect_whole(*r);
    EXPECT_EQ(r->refused.at("context_exceeded"), 1u);
    EXPECT_EQ(r->output_tokens, r->finished * 40);
    EXPECT_EQ(r->ttft.count, r->finished);
    EXPECT_EQ(r->itl.count, r->finished * 39);
    EXPECT_EQ(r->leases_expired, 0u);
  }
}

TEST(capacity, overload_refuses_and_what_is_taken_is_whole) {
  auto o = small_cluster(0, 1);
  o.admission.max_wait = std::chrono::milliseconds(2000);
  o.timeout = std::chrono::milliseconds(20'000);
  const auto r = plan_capacity(poisson(3000, 200, 500, 50), o);
  ASSERT_TRUE(r) << to_string(r.error());
  expect_whole(*r);
  EXPECT_GT(sum(r->refused), 500u);
  EXPECT_GT(r->finished, 100u);
  EXPECT_GT(r->decode.busy, 0.95);
}

TEST(capacity, one_seed_is_one_result) {
  auto o = small_cluster(1, 2);
  o.load = 1.5;
  o.jitter = std::chrono::milliseconds(500);
  const auto trace = poisson(200, 20, 400, 30);
  const auto a = plan_capacity(trace, o), b = plan_capacity(trace, o);
  o.seed = 2;
  const auto c = plan_capacity(trace, o);
  ASSERT_TRUE(a && b && c);
  EXPECT_EQ(a->events, b->events);
  EXPECT_EQ(a->ttft.mean, b->ttft.mean);
  EXPECT_EQ(a->itl.mean, b->itl.mean);
  EXPECT_NE(a->ttft.mean, c->ttft.mean);
}

// One node that runs one request at a time, answers of one token: a single server with fixed service time, whose mean
// wait is rho * s / (2 * (1 - rho)) (Pollaczek and Khinchine).
TEST(capacity, a_single_server_waits_as_long_as_the_formula_says) {
  auto o = small_cluster(0, 1);
  o.decode.message_seconds = o.decode.request_seconds = 0;
  o.engine.max_num_seqs = 1;
  o.engine.max_num_batched_tokens = 512;
  o.engine.max_prefill_chunk = 512;
  o.engine.prefix_caching = false;
  o.admission.max_wait = std::chrono::hours(1);
  const double service = 0.001 + 500 * 20e-6;  // 11 ms
  for (double rho : {0.3, 0.6}) {
    const auto r = plan_capacity(poisson(40'000, rho / service, 500, 1), o);
    ASSERT_TRUE(r) << to_string(r.error());
    EXPECT_EQ(r->finished, 40'000u);
    const double wait = rho * service / (2 * (1 - rho));
    EXPECT_NEAR(r->ttft.mean, service + wait, 0.05 * (service + wait)) << rho;
    EXPECT_NEAR(r->decode.busy, rho, 0.03) << rho;
  }
}

TEST(capacity, more_nodes_serve_no_worse) {
  const auto trace = poisson(1500, 60, 600, 40);
  double goodput = 0, busy = 2;
  for (std::uint32_t nodes : {1u, 2u, 4u, 8u}) {
    auto o = small_cluster(nodes, nodes);
    o.ttft_limit_seconds = 0.3, o.itl_limit_seconds = 0.02;
    const auto r = plan_capacity(trace, o);
    ASSERT_TRUE(r);
    EXPECT_GE(r->goodput, 0.98 * goodput) << nodes;
    EXPECT_LE(r->prefill.busy, busy) << nodes;
    goodput = r->goodput, busy = r->prefill.busy;
  }
  EXPECT_GT(goodput, 55);
}

TEST(capacity, shared_beginnings_are_found_and_other_texts_are_not) {
  std::vector<trace_request> trace;
  for (std::uint64_t i = 0; i < 50; ++i)
    trace.push_back({static_cast<double>(i), 2048, 8, {7, 8, 9, 1000 + i}});
  auto o = small_cluster(0, 1);
  const auto shared = plan_capacity(trace, o);
  ASSERT_TRUE(shared);
  // All but the first find three of four pieces.
  EXPECT_NEAR(shared->cached_share, 0.75 * 49 / 50, 0.001);
  o.load = 2;  // copies have texts of their own
  const auto twice = plan_capacity(trace, o);
  ASSERT_TRUE(twice);
  EXPECT_NEAR(twice->cached_share, 0.75 * 49 / 50, 0.001);
  for (auto& r : trace) r.hash_ids.clear();
  o.load = 1;
  const auto unlike = plan_capacity(trace, o);
  ASSERT_TRUE(unlike);
  EXPECT_EQ(unlike->cached_share, 0);
}

TEST(capacity, requests_go_where_their_beginning_is_known) {
  std::vector<trace_request> trace;
  for (std::uint64_t i = 0; i < 60; ++i)
    trace.push_back({static_cast<double>(i), 2048, 8, {i % 5, 100 + i % 5, 200 + i % 5, 1000 + i}});
  const auto four = plan_capacity(trace, small_cluster(0, 4));
  ASSERT_TRUE(four);
  // Each of five texts is computed once, at one of four nodes.
  EXPECT_NEAR(four->cached_share, 0.75 * 55 / 60, 0.001);
}

TEST(capacity, a_slow_link_is_measured_and_then_left_alone) {
  auto o = small_cluster(1, 1);
  const auto trace = poisson(100, 2, 1024, 20);
  const auto fast = plan_capacity(trace, o);
  o.prefill.link_bytes_per_second = o.decode.link_bytes_per_second = 0.1e9;
  const auto slow = plan_capacity(trace, o);
  ASSERT_TRUE(fast && slow);
  EXPECT_EQ(fast->finished, 100u);
  EXPECT_EQ(slow->finished, 100u);
  EXPECT_GT(fast->transferred_share, 0.5);
  // 64 MiB at 100 MB/s: 0.6 s more for each prompt that is read elsewhere.
  EXPECT_LT(slow->transferred_share, 0.2);
  EXPECT_LT(slow->e2e.mean, fast->e2e.mean + 0.1);
}

TEST(capacity, the_best_ratio_is_among_all_splits) {
  const auto trace = poisson(800, 40, 1500, 30);
  auto o = small_cluster(0, 1);
  o.ttft_limit_seconds = 0.4, o.itl_limit_seconds = 0.03;
  std::size_t heard = 0;
  const auto found = find_ratio(trace, o, 6, [&](const ratio_point&) { ++heard; });
  ASSERT_TRUE(found) << to_string(found.error());
  EXPECT_EQ(found->points.size(), 6u);
  EXPECT_EQ(heard, 6u);
  for (const auto& p : found->points) {
    EXPECT_EQ(p.prefill + p.decode, 6u);
    EXPECT_LE(p.report.goodput, found->points[found->best].report.goodput * 1.006);
  }
}

TEST(capacity, a_profile_that_cannot_be_is_refused) {
  auto o = small_cluster(1, 1);
  o.decode.decode.clear();
  EXPECT_THAT(plan_capacity({}, o).error().detail, testing::HasSubstr("decode"));
  o = small_cluster(1, 1);
  o.prefill.block_bytes = 5;
  EXPECT_THAT(plan_capacity({}, o).error().detail, testing::HasSubstr("exchange"));
  o = small_cluster(1, 0);
  EXPECT_FALSE(plan_capacity({}, o));
  o = small_cluster(1, 1);
  o.prefill.prompt = {{5, 0.1}, {4, 0.2}};
  EXPECT_THAT(plan_capacity({}, o).error().detail, testing::HasSubstr("ascending"));
}

TEST(capacity, an_empty_trace_is_an_empty_report) {
  const auto r = plan_capacity({}, small_cluster(1, 1));
  ASSERT_TRUE(r);
  EXPECT_EQ(r->arrivals, 0u);
  EXPECT_EQ(r->goodput, 0);
}

TEST(capacity, a_histogram_s_quantiles_are_within_one_percent) {
  log_histogram h;
  std::vector<double> all;
  std::mt19937_64 chance(1);
  std::lognormal_distribution<double> times(-4, 1);
  for (int i = 0; i < 20'000; ++i) {
    all.push_back(times(chance));
    h.add(all.back());
  }
  const auto exact = summarize(all);
  const auto near = h.summary();
  EXPECT_EQ(near.count, exact.count);
  EXPECT_NEAR(near.mean, exact.mean, 1e-9);
  EXPECT_NEAR(near.p50, exact.p50, 0.01 * exact.p50);
  EXPECT_NEAR(near.p99, exact.p99, 0.01 * exact.p99);
  EXPECT_EQ(near.max, exact.max);
}

}  // namespace
}  // namespace troupe::actors
