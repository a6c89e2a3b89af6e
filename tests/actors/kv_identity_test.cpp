#include "actors/kv_identity.hpp"

#include <gtest/gtest.h>

namespace troupe::actors {
namespace {

TEST(kv_identity, tells_models_layouts_and_quantized_weights_apart) {
  model::loaded_model model, other;
  other.digest.low = 1;
  const gpu::kv_layout layout{2, 2, 64, 16, gpu::kv_dtype::f16},
      wider{2, 2, 128, 16, gpu::kv_dtype::f16};
  const hash128_t identity = kv_identity_of(model, layout);
  EXPECT_EQ(identity, kv_identity_of(model, layout, ""));
  EXPECT_NE(identity, kv_identity_of(model, layout, "fp8"));
  EXPECT_NE(identity, kv_identity_of(other, layout));
  EXPECT_NE(identity, kv_identity_of(model, wider));
}

}  // namespace
}  // namespace troupe::actors
