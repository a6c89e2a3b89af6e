// Proof that the simulator would notice: each protection of the product, switched off, breaks an invariant within a
// stated number of seeds; with all of them on, the same seeds hold.

#include <gtest/gtest.h>

#include "tests/simulation/mutation.hpp"
#include "tests/simulation/shrink.hpp"

namespace troupe::simulation {
namespace {

struct planted_fault {
  const char* name;
  mutation::kind kind;
  std::uint64_t within;  // seeds
};

class mutation_test : public ::testing::TestWithParam<planted_fault> {};

TEST_P(mutation_test, is_noticed) {
  std::string how;
  const auto seeds = noticed_after(GetParam().kind, 1, GetParam().within, how);
  EXPECT_GT(seeds, 0u) << "nobody noticed within " << GetParam().within << " seeds";
  if (seeds == 0) return;
  RecordProperty("seeds", static_cast<int>(seeds));
  std::printf("%s: noticed at seed %llu: %s\n", GetParam().name,
              static_cast<unsigned long long>(seeds), how.c_str());
  const auto sound = run(make_scenario(seeds, true, emphasis::pulls));
  EXPECT_EQ(sound.violation, "") << "and without the mutation too";
}

INSTANTIATE_TEST_SUITE_P(
    protections, mutation_test,
    ::testing::Values(planted_fault{"fence_off", mutation::kind::fence_off, 300},
                      planted_fault{"generation_off", mutation::kind::generation_off, 3000},
                      planted_fault{"incarnation_off", mutation::kind::incarnation_off, 3000},
                      planted_fault{"lease_off", mutation::kind::lease_off, 1500},
                      planted_fault{"quarantine_off", mutation::kind::quarantine_off, 300},
                      planted_fault{"dedup_off", mutation::kind::dedup_off, 300}),
    [](const auto& planted) { return planted.param.name; });

}  // namespace
}  // namespace troupe::simulation
