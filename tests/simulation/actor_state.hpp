// The state of an actor of ours, looked at from outside; the simulator's thread is the only one.
#pragma once

#include <caf/stateful_actor.hpp>

namespace troupe::simulation {

template <class State, class Handle>
State* state_of(const caf::strong_actor_ptr& actor) {
  if (!actor) return nullptr;
  auto* a = dynamic_cast<caf::stateful_actor<State, typename Handle::base>*>(actor->get());
  return a == nullptr || a->getf(caf::abstract_actor::is_cleaned_up_flag) ? nullptr : &a->state;
}

inline bool has_ended(const caf::strong_actor_ptr& actor) {
  return actor->get()->getf(caf::abstract_actor::is_cleaned_up_flag);
}

}  // namespace troupe::simulation
