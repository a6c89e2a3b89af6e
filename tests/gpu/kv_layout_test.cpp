#include "gpu/kv_layout.hpp"

#include <gtest/gtest.h>

namespace troupe::gpu {
namespace {

TEST(kv_layout, sizes_of_the_default_model) {
  const kv_layout l{30, 3, 64, 16, kv_dtype::f16};
  EXPECT_EQ(l.bytes_per_token(), 23040u);
  EXPECT_EQ(l.payload_bytes(), 368640u);
  EXPECT_EQ(l.block_bytes(), 368640u + 64);
  EXPECT_EQ(l.blocks_for(0), 0u);
  EXPECT_EQ(l.blocks_for(16), 1u);
  EXPECT_EQ(l.blocks_for(17), 2u);
  EXPECT_EQ(l.description(), "30 layers, 3 kv heads x 64, 16 tokens, f16");
}

TEST(kv_layout, any_difference_changes_the_hash) {
  const kv_layout base{30, 3, 64, 16, kv_dtype::f16};
  EXPECT_EQ(base.hash(), kv_layout(base).hash());
  EXPECT_NE(base.hash(), (kv_layout{31, 3, 64, 16, kv_dtype::f16}.hash()));
  EXPECT_NE(base.hash(), (kv_layout{30, 64, 3, 16, kv_dtype::f16}.hash()));
  EXPECT_NE(base.hash(), (kv_layout{30, 3, 64, 32, kv_dtype::f16}.hash()));
  EXPECT_NE(base.hash(), (kv_layout{30, 3, 64, 16, kv_dtype::bf16}.hash()));
}

}  // namespace
}  // namespace troupe::gpu
