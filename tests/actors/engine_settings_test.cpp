#include "actors/engine_settings.hpp"

#include <gtest/gtest.h>

#include <array>

namespace troupe::actors {
namespace {

using sizes = std::array<std::uint32_t, 3>;  // sequences, tokens of a step, of a prompt in it

sizes sized(const sizes& given, bool on_gpu) {
  engine_settings s;
  s.max_num_seqs = given[0], s.max_num_batched_tokens = given[1], s.max_prefill_chunk = given[2];
  const auto made = sized_for(s, on_gpu, 16);
  return {made.max_num_seqs, made.max_num_batched_tokens, made.max_prefill_chunk};
}

TEST(engine_settings, steps_are_as_large_as_suits_the_device) {
  EXPECT_EQ(sized({0, 0, 0}, false), (sizes{64, 512, 256}));
  EXPECT_EQ(sized({0, 0, 0}, true), (sizes{256, 2048, 2048}));
}

TEST(engine_settings, what_is_given_stays_and_bounds_the_rest) {
  EXPECT_EQ(sized({8, 100, 32}, true), (sizes{8, 100, 32}));
  EXPECT_EQ(sized({0, 128, 0}, true), (sizes{112, 128, 128}));  // a step holds what is left open
  EXPECT_EQ(sized({0, 16, 0}, false), (sizes{1, 16, 16}));
  EXPECT_EQ(sized({0, 0, 4096}, true), (sizes{256, 4096, 4096}));
  EXPECT_EQ(sized({0, 0, 1024}, false), (sizes{64, 1024, 1024}));
  EXPECT_EQ(sized({1024, 0, 0}, false), (sizes{1024, 1040, 256}));
}

}  // namespace
}  // namespace troupe::actors
