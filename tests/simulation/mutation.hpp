// Plants a fault in the product's code (base/mutation.hpp) and looks whether the simulator notices.
#pragma once

#ifndef TROUPE_MUTATIONS
#define TROUPE_MUTATIONS
#endif
#include <cstdint>
#include <string>

#include "base/mutation.hpp"
#include "tests/simulation/scenario.hpp"

namespace troupe::simulation {

// Runs seeds first, first + 1, ... with the mutation planted, in a child process. Returns how many it took until
// an invariant broke, and in `how` which; 0: none did within `count`.
using scenario_maker = scenario (*)(std::uint64_t seed);
std::uint64_t noticed_after(mutation::kind k, scenario_maker make, std::uint64_t first,
                            std::uint64_t count, std::string& how);

}  // namespace troupe::simulation
