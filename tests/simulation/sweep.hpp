// One scenario under many seeds, its faults moved about: what the named tests are made of.
#pragma once

#include <gtest/gtest.h>

#include "tests/simulation/shrink.hpp"
#include "tests/simulation/tally.hpp"

namespace troupe::simulation {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr std::uint64_t seeds = 6;
#else
inline constexpr std::uint64_t seeds = 40;
#endif

inline scenario cluster(std::uint32_t decodes, std::uint32_t prefills) {
  scenario s;
  s.num_decode = decodes;
  s.num_prefill = prefills;
  s.fabric.gigabytes_per_second = 5e-5;  // a pull of eight blocks lasts some 14 ms
  return s;
}

inline scenario with_requests(scenario s, std::uint32_t count, std::uint32_t prompt_tokens,
                              milliseconds apart = milliseconds(15)) {
  for (std::uint32_t i = 0; i < count; ++i) {
    request q;
    q.at = apart * i;
    q.family = i % 3;
    q.prompt_tokens = prompt_tokens - i % 4;
    q.max_tokens = 6 + i % 5;
    q.variant = i % 4;
    s.requests.push_back(q);
  }
  return s;
}

// Runs the scenario under many seeds; `vary` moves its faults, so that they hit before, during and after.
inline tally sweep(scenario s, const std::function<void(scenario&, random&)>& vary = {}) {
  tally sum;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    auto varied = s;
    varied.seed = seed;
    random r(seed * 77 + 5);
    if (vary) vary(varied, r);
    const auto out = run(varied);
    sum.add(varied, out);
    if (out.violation.empty()) continue;
    ADD_FAILURE() << report(shrink(varied));
    break;
  }
  return sum;
}

inline void expect_all_answered(const tally& t) {
  EXPECT_EQ(t.answered, t.requests) << t.table(1);
}

inline auto at_any_moment(fault f, std::uint64_t within_ms) {
  return [f, within_ms](scenario& s, random& r) {
    auto moved = f;
    moved.at = milliseconds(r.below(within_ms));
    s.faults.push_back(moved);
  };
}

}  // namespace troupe::simulation
