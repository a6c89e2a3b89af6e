// Two implementations of gpu/sampling.hpp gave the same, bit for bit.
#pragma once

#include <gtest/gtest.h>

#include "gpu/sampling.hpp"

namespace troupe::gpu::cuda {

inline void expect_equal(const row_sample& got, const row_sample& wanted, const row_sampling& how) {
  ASSERT_EQ(got.status, wanted.status);
  if (wanted.status != sample_status::chosen) return;
  EXPECT_EQ(got.token, wanted.token);
  if (!how.logprobs) return;
  EXPECT_EQ(got.logit, wanted.logit);
  EXPECT_EQ(got.largest, wanted.largest);
  EXPECT_EQ(got.total, wanted.total);
  ASSERT_EQ(got.num_top, wanted.num_top);
  for (std::uint32_t i = 0; i < wanted.num_top; ++i) {
    EXPECT_EQ(got.top[i].token, wanted.top[i].token) << i;
    EXPECT_EQ(got.top[i].logit, wanted.top[i].logit) << i;
  }
}

}  // namespace troupe::gpu::cuda
