// Proof that the simulator would notice: each protection of the product, switched off, breaks an invariant within a
// stated number of seeds; with all of them on, the same seeds hold.

#include <gtest/gtest.h>

#include "tests/simulation/mutation.hpp"
#include "tests/simulation/shrink.hpp"

namespace troupe::simulation {
namespace {

scenario by_chance(std::uint64_t seed) {
  return make_scenario(seed, true, emphasis::pulls);
}

scenario slow_pulls(std::uint64_t seed) {
  scenario s;
  s.seed = seed;
  s.num_decode = 2;
  s.num_prefill = 1;
  s.prefix_caching = false;
  s.fabric.gigabytes_per_second = 4e-6;
  for (std::uint32_t i = 0; i < 14; ++i) {
    request q;
    q.at = milliseconds(40 * i);
    q.family = i % 3;
    q.prompt_tokens = 32 - i % 4;
    q.max_tokens = 6;
    q.variant = i % 4;
    s.requests.push_back(q);
  }
  return s;
}

// A reader that can neither read nor hear for longer than the lease, while the owner's blocks are wanted by others.
scenario reused_blocks(std::uint64_t seed) {
  auto s = slow_pulls(seed);
  s.num_blocks = 18;
  s.lease = milliseconds(150);
  random r(seed);
  const auto at = milliseconds(10 + r.below(200));
  s.faults.push_back({fault_kind::cut_fabric, at, milliseconds(1200), 1, 3});
  s.faults.push_back({fault_kind::cut_both, at, milliseconds(3500), 1, 3});
  return s;
}

// The owner restarts at the same address under a reader that does not hear of it, and serves others.
scenario restarted_owner(std::uint64_t seed) {
  auto s = slow_pulls(seed);
  s.fabric.gigabytes_per_second = 1e-6;
  random r(seed);
  const auto at = milliseconds(20 + r.below(250));
  s.faults.push_back({fault_kind::cut, at, milliseconds(3500), 0, 1});
  s.faults.push_back({fault_kind::vanish, at + milliseconds(1), milliseconds(50), 3, 0});
  return s;
}

scenario with_drafts(std::uint64_t seed) {
  return make_scenario(seed, true, emphasis::drafts);
}

struct planted_fault {
  const char* name;
  mutation::kind kind;
  scenario_maker make;
  std::uint64_t within;  // seeds
};

class mutation_test : public ::testing::TestWithParam<planted_fault> {};

TEST_P(mutation_test, is_noticed) {
  std::string how;
  const auto seeds = noticed_after(GetParam().kind, GetParam().make, 1, GetParam().within, how);
  EXPECT_GT(seeds, 0u) << "nobody noticed within " << GetParam().within << " seeds";
  if (seeds == 0) return;
  RecordProperty("seeds", static_cast<int>(seeds));
  std::printf("%s: noticed at seed %llu: %s\n", GetParam().name,
              static_cast<unsigned long long>(seeds), how.c_str());
  const auto sound = run(GetParam().make(seeds));
  EXPECT_EQ(sound.violation, "") << "and without the mutation too";
}

INSTANTIATE_TEST_SUITE_P(
    protections, mutation_test,
    ::testing::Values(
        planted_fault{"fence_off", mutation::kind::fence_off, by_chance, 400},
        planted_fault{"generation_off", mutation::kind::generation_off, reused_blocks, 200},
        planted_fault{"incarnation_off", mutation::kind::incarnation_off, restarted_owner, 200},
        planted_fault{"lease_off", mutation::kind::lease_off, by_chance, 50},
        planted_fault{"quarantine_off", mutation::kind::quarantine_off, by_chance, 50},
        planted_fault{"dedup_off", mutation::kind::dedup_off, by_chance, 50},
        planted_fault{"guess_check_off", mutation::kind::guess_check_off, with_drafts, 50},
        planted_fault{"guess_ids_off", mutation::kind::guess_ids_off, with_drafts, 50},
        planted_fault{"draft_cut_off", mutation::kind::draft_cut_off, with_drafts, 50},
        planted_fault{"draft_reader_off", mutation::kind::draft_reader_off, with_drafts, 200}),
    [](const auto& planted) { return planted.param.name; });

}  // namespace
}  // namespace troupe::simulation
