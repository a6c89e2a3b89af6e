// Which stores a prompt belongs to: plain functions, the same at every node and store.
//
// Rendezvous hashing (Thaler and Ravishankar 1998) of the prompt's first block over the stores' names gives each prompt an
// order of all stores. Its home is the first; copies are at those that follow. A store that comes or goes moves only its
// own share, and the prompts of one that went find their copies where they look next. Names, not incarnations: a store
// that is restarted has its share back.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/hash.hpp"

namespace troupe::actors {

struct store_place {
  std::string name;
  std::uint64_t start = 0;
  std::uint32_t load = 0;  // readers at the moment
};

// Places in the order of the prompt, its home first.
std::vector<store_place> store_order(const hash128_t& first_block, std::vector<store_place> all);

// The one to read from: of the first `copies`, beginning with that of `turn`, the first whose load is within its bound, a
// quarter more than the mean of all (Mirrokni, Thorup, Zadimoghaddam 2018); if none is, the least loaded of them.
// REQUIRES: ordered is not empty.
const store_place& store_to_read(std::span<const store_place> ordered, std::uint32_t copies,
                                 std::uint64_t turn);

}  // namespace troupe::actors
