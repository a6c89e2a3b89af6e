// Faults that the simulator plants in this code to prove that it would notice them (tests/simulation/mutations_test.cpp).
// Only the simulator's own copies of the sources are compiled with TROUPE_MUTATIONS: in every other build
// TROUPE_PLANTED() is the constant false, and nothing at run time can switch it on. For .cpp files only.
#pragma once

#ifdef TROUPE_MUTATIONS
namespace troupe::mutation {
enum class kind {
  none,
  fence_off,
  generation_off,
  incarnation_off,
  lease_off,
  quarantine_off,
  dedup_off,
  guess_check_off,
  guess_ids_off,
  draft_cut_off,
  draft_reader_off
};
bool planted(kind k);
}  // namespace troupe::mutation
#define TROUPE_PLANTED(name) (::troupe::mutation::planted(::troupe::mutation::kind::name))
#else
#define TROUPE_PLANTED(name) false
#endif
