// The sampler against a plain reference (full sort, libm, double) and against chance.
#include "engine/sampler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>

#include "engine/philox.hpp"
#include "engine/sampling_plan.hpp"

namespace troupe::engine {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::uint64_t seed, std::size_t n, float width = 3) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, width);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

sampling_params warm(float temperature = 1) {
  sampling_params p;
  p.temperature = temperature;
  return p;
}

result<token_output> sample(sampler& s, std::span<const float> logits, const sample_request& r) {
  sampling_plan plan;
  plan.add(r);
  const gpu::row_sampling how = plan.rows()[0];
  return read_sample(s.sample(logits, how), how, r.index);
}

result<token_output> score(sampler& s, std::span<const float> logits, token_id token,
                           std::uint32_t num_top) {
  sampling_plan plan;
  plan.add_score(token, num_top);
  const gpu::row_sampling how = plan.rows()[0];
  return read_sample(s.sample(logits, how), how, 0);
}

token_id draw_one(sampler& s, const std::vector<float>& logits, const sampling_params& p,
                  std::uint32_t position = 0, const token_counts* counts = nullptr,
                  std::span<const token_id> ends = {}) {
  auto t = sample(s, logits, {p, 0, position, ends, counts});
  EXPECT_TRUE(t);
  return t ? t->token : ~token_id{0};
}

// Probabilities as the order of operations says, by full sort in double.
std::vector<double> reference(const std::vector<float>& logits, const sampling_params& p) {
  const std::size_t n = logits.size();
  std::vector<double> w(n);
  const double max = *std::max_element(logits.begin(), logits.end());
  for (std::size_t i = 0; i < n; ++i) w[i] = std::exp((logits[i] - max) / p.temperature);
  for (double& x : w)
    if (x < p.min_p) x = 0;
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return logits[a] > logits[b]; });
  if (p.top_k > 0)
    for (std::size_t i = p.top_k; i < n; ++i) w[order[i]] = 0;
  const double total = std::accumulate(w.begin(), w.end(), 0.0);
  double sum = 0;
  for (std::size_t i : order) {
    if (sum >= p.top_p * total) w[i] = 0;
    sum += w[i];
  }
  const double kept = std::accumulate(w.begin(), w.end(), 0.0);
  for (double& x : w) x /= kept;
  return w;
}

double chi_square(const std::vector<std::uint64_t>& counts, const std::vector<double>& p,
                  std::uint64_t draws, int& degrees) {
  double chi = 0, pooled_expected = 0;
  std::uint64_t pooled = 0;
  degrees = -1;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * static_cast<double>(draws);
    if (expected < 8) {
      pooled_expected += expected;
      pooled += counts[i];
      continue;
    }
    chi += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++degrees;
  }
  if (pooled_expected > 8) {
    chi += (pooled - pooled_expected) * (pooled - pooled_expected) / pooled_expected;
    ++degrees;
  }
  return chi;
}

// About four standard deviations above the mean.
bool plausible(double chi, int degrees) {
  return chi < degrees + 4 * std::sqrt(2.0 * degrees) + 6;
}

TEST(sampler, greedy_takes_the_largest_and_the_lower_of_equals) {
  for (std::size_t n : {1u, 7u, 63u, 64u, 65u, 1000u, 49152u}) {
    sampler s(static_cast<std::uint32_t>(n));
    auto logits = random_logits(n, n);
    const auto best = std::max_element(logits.begin(), logits.end());
    EXPECT_EQ(draw_one(s, logits, warm(0)), best - logits.begin());
    const float top = *best;
    logits[n - 1] = logits[n / 2] = logits[n / 3] = top + 1;
    EXPECT_EQ(draw_one(s, logits, warm(0)), n / 3);
    EXPECT_EQ(draw_one(s, logits, warm(1e-6f)), n / 3) << "a temperature near 0 is greedy";
  }
}

TEST(sampler, top_k_of_one_is_greedy_whatever_the_temperature) {
  sampler s(3000);
  auto p = warm(2);
  p.top_k = 1;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    auto logits = random_logits(seed, 3000, 20);
    const auto best =
        static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    // One unit in the last place below, and a lower token: exp cannot tell them apart.
    if (best > 0) logits[best - 1] = std::nextafter(logits[best], -infinity);
    p.seed = seed;
    EXPECT_EQ(draw_one(s, logits, p), best);
  }
}

TEST(sampler, the_kept_set_is_exactly_the_reference_one) {
  // Every token that can be drawn is drawn by some uniform number; the support shows the cut.
  constexpr std::size_t n = 300;
  sampler s(n);
  std::mt19937_64 random(5);
  for (int round = 0; round < 28; ++round) {
    auto logits =
        random_logits(100 + static_cast<std::uint64_t>(round), n, round % 2 ? 1.0f : 4.0f);
    if (round % 3 == 0)  // ties
      for (float& x : logits) x = std::round(x);
    auto p = warm(round % 4 == 0 ? 0.5f : 1.3f);
    if (round % 2 == 0) p.top_k = static_cast<std::uint32_t>(1 + random() % 40);
    if (round % 5 < 3) p.top_p = 0.05f + 0.9f * static_cast<float>(random() % 1000) / 1000;
    if (round % 7 < 3) p.min_p = 0.3f * static_cast<float>(random() % 1000) / 1000;
    const auto expected = reference(logits, p);
    std::vector<std::uint64_t> counts(n);
    constexpr std::uint64_t draws = 20'000;
    for (std::uint32_t i = 0; i < draws; ++i) ++counts[draw_one(s, logits, p, i)];
    for (std::size_t i = 0; i < n; ++i) {
      if (expected[i] == 0) {
        EXPECT_EQ(counts[i], 0u) << "round " << round << " token " << i << " is cut";
      }
      if (expected[i] > 1e-3) {
        EXPECT_GT(counts[i], 0u) << "round " << round << " token " << i << " is kept";
      }
    }
    int degrees = 0;
    const double chi = chi_square(counts, expected, draws, degrees);
    EXPECT_TRUE(plausible(chi, degrees)) << "round " << round << ": " << chi << " of " << degrees;
  }
}

TEST(sampler, chi_square_accepts_the_law_and_rejects_a_near_one) {
  constexpr std::size_t n = 64;
  sampler s(n);
  const auto logits = random_logits(1, n, 1);
  constexpr std::uint64_t draws = 200'000;
  for (float temperature : {0.7f, 1.0f, 1.5f}) {
    std::vector<std::uint64_t> counts(n);
    for (std::uint32_t i = 0; i < draws; ++i) ++counts[draw_one(s, logits, warm(temperature), i)];
    int degrees = 0;
    double chi = chi_square(counts, reference(logits, warm(temperature)), draws, degrees);
    EXPECT_TRUE(plausible(chi, degrees)) << chi << " of " << degrees;
    // Negative control: five per cent off in temperature must be seen.
    chi = chi_square(counts, reference(logits, warm(temperature * 1.05f)), draws, degrees);
    EXPECT_FALSE(plausible(chi, degrees)) << chi << " of " << degrees;
  }
}

TEST(sampler, top_p_of_a_flat_distribution_over_a_large_vocabulary) {
  constexpr std::size_t n = 20'000;
  sampler s(n);
  const auto logits = random_logits(9, n, 0.3f);
  auto p = warm(1);
  p.top_p = 0.5f;
  const auto expected = reference(logits, p);
  const auto kept = std::count_if(expected.begin(), expected.end(), [](double x) { return x > 0; });
  EXPECT_GT(kept, 5000);
  for (std::uint32_t i = 0; i < 3000; ++i) {
    // Reference and sampler may differ by rounding at the boundary, never by more than that.
    const token_id t = draw_one(s, logits, p, i);
    if (expected[t] == 0) {
      float lowest = infinity;
      for (std::size_t j = 0; j < n; ++j)
        if (expected[j] > 0) lowest = std::min(lowest, logits[j]);
      EXPECT_NEAR(logits[t], lowest, 1e-3);
    }
  }
}

TEST(sampler, every_instruction_set_gives_the_same_bits) {
  std::vector<const vocab_ops*> all = {&vocab_ops_portable};
  if (__builtin_cpu_supports("avx2")) all.push_back(&vocab_ops_avx2);
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl"))
    all.push_back(&vocab_ops_avx512);
  ASSERT_GT(all.size(), 1u) << "this machine cannot show it";
  for (std::size_t n : {1u, 63u, 1000u, 49152u}) {
    auto p = warm(0.9f);
    p.logprobs = 5;
    p.top_p = 0.95f;
    p.min_p = 1e-4f;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const auto logits = random_logits(seed, n);
      p.seed = seed;
      std::vector<token_output> outputs;
      std::vector<std::vector<float>> weights;
      std::vector<std::vector<std::uint64_t>> sums;
      for (const vocab_ops* ops : all) {
        sampler s(static_cast<std::uint32_t>(n), *ops);
        outputs.push_back(*sample(s, logits, {p, 0, 3, {}, nullptr}));
        weights.emplace_back(n);
        sums.emplace_back(num_vocab_chunks(n));
        ops->exp_weights(logits.data(), n, 4.0f, 0.7f, weights.back().data(), sums.back().data());
      }
      for (std::size_t i = 1; i < all.size(); ++i) {
        EXPECT_EQ(outputs[i].token, outputs[0].token) << all[i]->name;
        EXPECT_EQ(outputs[i].logprob, outputs[0].logprob) << all[i]->name;
        EXPECT_EQ(weights[i], weights[0]) << all[i]->name;
        EXPECT_EQ(sums[i], sums[0]) << all[i]->name;
      }
    }
  }
}

TEST(sampler, own_exp_and_log_are_accurate) {
  std::vector<float> x, w(4096);
  std::vector<std::uint64_t> sums(num_vocab_chunks(4096));
  for (int i = 0; i < 4096; ++i) x.push_back(-86.0f * static_cast<float>(i) / 4096);
  best_vocab_ops().exp_weights(x.data(), x.size(), 0, 1, w.data(), sums.data());
  for (std::size_t i = 0; i < x.size(); ++i)
    EXPECT_NEAR(w[i] / std::exp(static_cast<double>(x[i])), 1, 3e-7) << x[i];
  EXPECT_EQ(w[0], 1.0f);
  for (double v : {1e-300, 0.3, 0.70710678, 1.0, 1.0000001, 1.5, 2.0, 49152.0, 1e300})
    EXPECT_NEAR(fixed_log(v), std::log(v), 1e-15 * std::max(1.0, std::abs(std::log(v)))) << v;
}

// What a GPU computes token by token is what the host computes by registers.
TEST(sampler, one_weight_alone_has_the_bits_that_it_has_in_a_row) {
  const std::size_t n = 4096;
  auto x = random_logits(3, n, 30);
  x[0] = -infinity;
  x[1] = 200;
  std::vector<float> w(n);
  std::vector<std::uint64_t> sums(num_vocab_chunks(n));
  best_vocab_ops().exp_weights(x.data(), n, 200, 0.31f, w.data(), sums.data());
  for (std::size_t c = 0; c < sums.size(); ++c) {
    std::uint64_t sum = 0;
    for (std::size_t i = c * vocab_chunk; i < (c + 1) * vocab_chunk; ++i) {
      ASSERT_EQ(gpu::exp_nonpositive((x[i] - 200) * 0.31f), w[i]) << x[i];
      sum += gpu::weight_units(w[i]);
    }
    ASSERT_EQ(sum, sums[c]);
  }
  EXPECT_EQ(gpu::weight_units(1), 1ull << 44);
  EXPECT_EQ(gpu::weight_units(0x1.8p-44f), 2u) << "ties to even";
  EXPECT_EQ(gpu::weight_units(0x1p-45f), 0u);
}

TEST(sampler, the_random_number_picks_the_token_that_holds_its_share) {
  sampler s(3);
  const std::vector<float> logits = {0, 0, 0};
  gpu::row_sampling how;
  how.way = gpu::sampling_way::draw;
  const auto at = [&](std::uint64_t random) {
    how.random = random;
    return s.sample(logits, how).token;
  };
  const std::uint64_t third = ~std::uint64_t{0} / 3;
  EXPECT_EQ(at(0), 0u);
  EXPECT_EQ(at(third - (1 << 21)), 0u);
  EXPECT_EQ(at(third + (1 << 21)), 1u);
  EXPECT_EQ(at(2 * third + (1 << 21)), 2u);
  EXPECT_EQ(at(~std::uint64_t{0}), 2u);
}

TEST(sampling_plan, each_token_is_edited_once) {
  token_counts counts;
  const std::vector<token_id> prompt = {5, 6}, ends = {6, 9}, guesses = {6, 7, 7};
  counts.add_prompt(prompt);
  counts.add_output(5);
  sampling_params p = warm();
  p.repetition_penalty = 1.5f;
  p.frequency_penalty = 0.25f;
  p.presence_penalty = 1;
  p.logit_bias = {{5, 2}, {8, 3}, {8, 1}};
  p.min_tokens = 4;
  p.stop_token_ids = {8};
  sampling_plan plan;
  plan.add({p, 4, 0, ends, &counts, false, guesses});  // after min_tokens
  plan.add({p, 3, 0, ends, &counts});
  plan.add_score(7, 2);
  const auto rows = plan.rows();
  const auto row = [&](std::size_t i) {
    std::vector<std::array<float, 4>> edits;
    for (const auto& e : rows[i].edits)
      edits.push_back({static_cast<float>(e.token), e.bias, e.repetition, e.minus});
    return edits;
  };
  using edits = std::vector<std::array<float, 4>>;
  EXPECT_EQ(row(0),
            (edits{{5, 2, 1.5f, 1.25f}, {6, 0, 1.5f, 1.25f}, {7, 0, 1.5f, 1.5f}, {8, 4, 1, 0}}));
  EXPECT_EQ(row(1), (edits{{5, 2, 1.5f, 1.25f},
                           {6, -infinity, 1.5f, 0},
                           {8, -infinity, 1, 0},
                           {9, -infinity, 1, 0}}));
  EXPECT_TRUE(rows[2].edits.empty());
  EXPECT_EQ(rows[2].way, gpu::sampling_way::score);
  EXPECT_EQ(rows[2].given, 7u);
}

TEST(sampling_plan, counts_that_stay_are_not_copied_and_keep_up) {
  token_counts counts;
  const std::vector<token_id> prompt = {4, 2, 4};
  counts.add_prompt(prompt);
  sampling_params p = warm();
  p.frequency_penalty = 0.5f;
  p.repetition_penalty = 2;
  sampling_plan lent, copied;
  for (const token_id next : {2u, 9u, 9u, 2u}) {
    counts.add_output(next);
    lent.clear();
    copied.clear();
    lent.add({p, 1, 0, {}, &counts, true});
    copied.add({p, 1, 0, {}, &counts});
    const auto a = lent.rows()[0].edits, b = copied.rows()[0].edits;
    EXPECT_EQ(a.data(), counts.penalties(p).data());
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].token, counts.entries()[i].token);
      EXPECT_EQ(a[i].minus, 0.5f * static_cast<float>(counts.entries()[i].in_output));
      EXPECT_EQ(a[i].repetition, 2);
      EXPECT_EQ(b[i].token, a[i].token);
      EXPECT_EQ(b[i].minus, a[i].minus);
    }
  }
}

// A row of a draft is what a row without one is once the guesses are in the text.
TEST(sampling_plan, guesses_count_as_output) {
  token_counts counts, later;
  const std::vector<token_id> prompt = {1, 2, 3}, guesses = {3, 8, 8};
  for (token_counts* c : {&counts, &later}) {
    c->add_prompt(prompt);
    c->add_output(2);
  }
  for (token_id t : guesses) later.add_output(t);
  sampling_params p = warm();
  p.presence_penalty = 0.5f;
  p.frequency_penalty = 0.1f;
  sampling_plan plan;
  plan.add({p, 4, 7, {}, &counts, false, guesses});
  plan.add({p, 4, 7, {}, &later});
  sampler s(30);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto logits = random_logits(seed, 30, 1);
    EXPECT_EQ(s.sample(logits, plan.rows()[0]).token, s.sample(logits, plan.rows()[1]).token);
  }
}

TEST(sampler, logprobs_are_the_models_own) {
  constexpr std::size_t n = 5000;
  sampler s(n);
  const auto logits = random_logits(2, n);
  double total = 0;
  for (float x : logits) total += std::exp(static_cast<double>(x));
  auto p = warm(0.3f);
  p.logprobs = 20;
  p.logit_bias = {{17, 100.0f}};
  const auto t = *sample(s, logits, {p, 0, 0, {}, nullptr});
  EXPECT_EQ(t.token, 17u);
  EXPECT_NEAR(t.logprob, logits[17] - std::log(total), 1e-5);
  ASSERT_EQ(t.top.size(), 20u);
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return logits[a] > logits[b]; });
  for (std::size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(t.top[i].token, order[i]);
    EXPECT_NEAR(t.top[i].logprob, logits[order[i]] - std::log(total), 1e-5);
  }
  p.logprobs = 0;
  EXPECT_TRUE((*sample(s, logits, {p, 0, 0, {}, nullptr})).top.empty());
  // A vocabulary smaller than what was asked for.
  sampler tiny(3);
  p = warm(0);
  p.logprobs = 20;
  EXPECT_EQ((*sample(tiny, std::vector<float>{1, 2, 3}, {p, 0, 0, {}, nullptr})).top.size(), 3u);
  const std::vector<float> far = {0, 20'000, -3};
  EXPECT_EQ((*score(tiny, far, 2, 0)).logprob, -9999.0f);
}

TEST(sampler, penalties_follow_their_formulas) {
  sampler s(8);
  const std::vector<float> logits = {2.0f, -1.0f, 1.0f, 0, 0, 0, 0, 0};
  token_counts counts;
  const std::vector<token_id> prompt = {0, 1};
  counts.add_prompt(prompt);
  sampling_params p = warm(0);
  const auto best = [&] { return draw_one(s, logits, p, 0, &counts); };
  EXPECT_EQ(best(), 0u);
  p.repetition_penalty = 1.9f;  // 2 / 1.9 > 1
  EXPECT_EQ(best(), 0u);
  p.repetition_penalty = 2.1f;  // 2 / 2.1 < 1
  EXPECT_EQ(best(), 2u);
  p = warm(0);
  p.presence_penalty = 1.5f;
  EXPECT_EQ(best(), 0u) << "presence counts output only";
  counts.add_output(0);
  EXPECT_EQ(best(), 2u);
  p.presence_penalty = 0.5f;
  EXPECT_EQ(best(), 0u);
  counts.add_output(0);
  counts.add_output(0);
  EXPECT_EQ(best(), 0u) << "presence does not count";
  p.presence_penalty = 0;
  p.frequency_penalty = 0.4f;
  EXPECT_EQ(best(), 2u) << "frequency does";
  p.frequency_penalty = -2;
  EXPECT_EQ(best(), 0u);
  p = warm(0);
  p.repetition_penalty = 0.1f;  // rewards; negative logits shrink towards 0
  EXPECT_EQ(best(), 0u);
}

TEST(sampler, end_tokens_wait_for_min_tokens) {
  sampler s(4);
  const std::vector<float> logits = {1, 5, 4, 0};
  sampling_params p = warm(0);
  p.min_tokens = 2;
  p.stop_token_ids = {2};
  const std::vector<token_id> ends = {1};
  const auto at = [&](std::uint32_t index) {
    return (*sample(s, logits, {p, index, 0, ends, nullptr})).token;
  };
  EXPECT_EQ(at(0), 0u);
  EXPECT_EQ(at(1), 0u);
  EXPECT_EQ(at(2), 1u);
  p.stop_token_ids = {0, 2, 3};
  const auto none = sample(s, logits, {p, 0, 0, ends, nullptr});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ec::internal);
}

TEST(sampler, refuses_rows_that_are_no_numbers) {
  for (std::size_t n : {1u, 70u, 256u})
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity})
      for (std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
        sampler s(static_cast<std::uint32_t>(n));
        auto logits = random_logits(1, n);
        logits[at] = bad;
        for (float temperature : {0.0f, 1.0f}) {
          auto t = sample(s, logits, {warm(temperature), 0, 0, {}, nullptr});
          ASSERT_FALSE(t);
          EXPECT_EQ(t.error().code, ec::internal);
        }
        EXPECT_FALSE(score(s, logits, 0, 0));
      }
}

TEST(sampler, draws_depend_on_seed_choice_and_position_only) {
  sampler a(1000), b(1000);
  const auto logits = random_logits(4, 1000, 1);
  auto p = warm(1);
  std::vector<token_id> first, second, other_choice;
  for (std::uint32_t i = 0; i < 50; ++i) first.push_back(draw_one(a, logits, p, i));
  for (std::uint32_t i = 50; i-- > 0;) second.push_back(draw_one(b, logits, p, i));
  std::reverse(second.begin(), second.end());
  EXPECT_EQ(first, second);
  p.sequence_index = 1;
  for (std::uint32_t i = 0; i < 50; ++i) other_choice.push_back(draw_one(a, logits, p, i));
  EXPECT_NE(first, other_choice);
}

TEST(validate, names_the_field) {
  const auto field = [](const std::function<void(sampling_params&)>& change) -> std::string {
    sampling_params p;
    change(p);
    auto ok = validate(p, 100);
    if (ok) return "";
    EXPECT_EQ(ok.error().code, ec::invalid_argument);
    return ok.error().detail.substr(0, ok.error().detail.find(':'));
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(field([](auto&) {}), "");
  for (float bad : {-0.1f, 2.1f, nan, infinity})
    EXPECT_EQ(field([&](auto& p) { p.temperature = bad; }), "temperature");
  for (float bad : {0.0f, 1.1f, nan}) EXPECT_EQ(field([&](auto& p) { p.top_p = bad; }), "top_p");
  for (float bad : {-0.1f, 1.1f, nan}) EXPECT_EQ(field([&](auto& p) { p.min_p = bad; }), "min_p");
  for (float bad : {0.0f, -1.0f, nan, infinity})
    EXPECT_EQ(field([&](auto& p) { p.repetition_penalty = bad; }), "repetition_penalty");
  for (float bad : {-2.1f, 2.1f, nan}) {
    EXPECT_EQ(field([&](auto& p) { p.presence_penalty = bad; }), "presence_penalty");
    EXPECT_EQ(field([&](auto& p) { p.frequency_penalty = bad; }), "frequency_penalty");
  }
  EXPECT_EQ(field([](auto& p) { p.logit_bias = {{100, 0.0f}}; }), "logit_bias");
  EXPECT_EQ(field([&](auto& p) { p.logit_bias = {{1, nan}}; }), "logit_bias");
  EXPECT_EQ(field([](auto& p) { p.logit_bias.resize(1024); }), "");
  EXPECT_EQ(field([](auto& p) { p.logit_bias.resize(1025); }), "logit_bias");
  EXPECT_EQ(field([](auto& p) { p.stop_token_ids.resize(1025); }), "stop_token_ids");
  EXPECT_EQ(field([](auto& p) { p.logprobs = 21; }), "logprobs");
  EXPECT_EQ(field([](auto& p) { p.prompt_logprobs = 21; }), "prompt_logprobs");
  EXPECT_EQ(field([](auto& p) { p.stop_token_ids = {100}; }), "stop_token_ids");
  EXPECT_EQ(field([](auto& p) { p.min_tokens = 17; }), "min_tokens");
}

}  // namespace
}  // namespace troupe::engine
