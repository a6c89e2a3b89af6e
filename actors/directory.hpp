// The directory actor: membership_table behind a mailbox. It holds no state that nodes could not give again.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <map>
#include <string>

#include "actors/interfaces.hpp"
#include "actors/membership_table.hpp"

namespace troupe::actors {

struct directory_state {
  static inline const char* name = "troupe.directory";
  explicit directory_state(directory_actor::pointer selfptr) : self(selfptr) {}

  directory_actor::behavior_type make_behavior();
  void publish();

  directory_actor::pointer self;
  std::unique_ptr<membership_table> table;
  std::map<caf::actor_addr, std::pair<std::string, std::uint64_t>> joined;  // agents by address
  std::map<caf::actor_addr, membership_listener> subscribers;
  std::uint64_t ticks = 0;
};

directory_actor::behavior_type directory(directory_actor::stateful_pointer<directory_state> self,
                                         membership_options options);

}  // namespace troupe::actors
