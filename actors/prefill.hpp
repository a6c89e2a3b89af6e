// The prefill actor: reads prompts for decode nodes, announces sealed blocks chunk by chunk, samples the first token,
// and holds the blocks under a lease until the reader releases them or dies.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <map>
#include <set>

#include "actors/interfaces.hpp"
#include "actors/node_services.hpp"

namespace troupe::actors {

// What a prefill node says to the decode node that asked.
using prefill_reader = caf::typed_actor<caf::reacts_to<blocks_ready>, caf::reacts_to<first_token>,
                                        caf::reacts_to<prefill_failed>>;

struct prefill_state {
  static inline const char* name = "troupe.prefill";
  explicit prefill_state(prefill_actor::pointer selfptr) : self(selfptr) {}
  prefill_actor::behavior_type make_behavior();

  struct entry {
    std::uint32_t try_number = 0;
    prefill_reader reader;
  };
  void prefill(const prefill_request& r);
  void refuse(std::uint64_t id, std::uint32_t try_number, const error& why);
  void on_events(const engine::events& e);
  void end(std::uint64_t id, bool canceled);

  prefill_actor::pointer self;
  std::shared_ptr<node_services> node;
  std::map<std::uint64_t, entry> entries;
  std::set<caf::actor_addr> readers;  // monitored
};

prefill_actor::behavior_type prefill(prefill_actor::stateful_pointer<prefill_state> self,
                                     std::shared_ptr<node_services> node);

}  // namespace troupe::actors
