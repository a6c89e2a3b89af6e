#include "actors/placement.hpp"

#include <gtest/gtest.h>

namespace troupe::actors {
namespace {

std::vector<placement> place(const std::string& device, std::size_t nodes, double fraction = 0) {
  gpu::runner_options options;
  options.device = device;
  options.gpu_memory_fraction = fraction;
  auto placed = place_nodes(options, nodes);
  EXPECT_TRUE(placed.has_value()) << to_string(placed.error());
  return placed.value_or(std::vector<placement>{});
}

TEST(placement, devices_are_taken_in_turn) {
  const auto p = place("cuda:0,cuda:1", 3);
  ASSERT_EQ(p.size(), 3u);
  EXPECT_EQ(p[0].device, "cuda:0");
  EXPECT_EQ(p[1].device, "cuda:1");
  EXPECT_EQ(p[2].device, "cuda:0");
  EXPECT_DOUBLE_EQ(p[0].gpu_memory_fraction, 0.45);
  EXPECT_DOUBLE_EQ(p[1].gpu_memory_fraction, 0.9);
}

TEST(placement, one_gpu_by_several_names_is_shared) {
  const auto p = place("auto,cuda,cuda:0", 3);
  for (const auto& one : p) EXPECT_DOUBLE_EQ(one.gpu_memory_fraction, 0.3);
  EXPECT_DOUBLE_EQ(place("cuda:1", 1, 0.5)[0].gpu_memory_fraction, 0.5);
}

TEST(placement, the_host_takes_no_share) {
  const auto p = place("cpu,cuda:0", 2);
  EXPECT_EQ(p[0].gpu_memory_fraction, 0);
  EXPECT_DOUBLE_EQ(p[1].gpu_memory_fraction, 0.9);
}

TEST(placement, refuses_more_than_a_gpu_and_empty_names) {
  gpu::runner_options options;
  options.device = "cuda:0";
  options.gpu_memory_fraction = 0.6;
  const auto too_much = place_nodes(options, 2);
  ASSERT_FALSE(too_much.has_value());
  EXPECT_EQ(too_much.error().code, ec::invalid_argument);
  options.device = "cuda:0,,cuda:1";
  EXPECT_FALSE(place_nodes(options, 2).has_value());
}

}  // namespace
}  // namespace troupe::actors
