// Makes a failing scenario small: takes away requests and faults, one after the other, as long as it still fails.
#pragma once

#include "tests/simulation/world.hpp"

namespace troupe::simulation {

struct shrunk {
  scenario smallest;
  outcome failure;  // with its trace
  std::uint32_t runs = 0;
};
// REQUIRES: run(s) has a violation.
shrunk shrink(const scenario& s, std::uint32_t max_runs = 400);

// What a person needs: the seed, what is wrong, the scenario that remains, the last lines of what happened.
std::string report(const shrunk& s, std::size_t last_lines = 60);

}  // namespace troupe::simulation
