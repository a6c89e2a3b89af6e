// The draft actor: a smaller model of the cluster's vocabulary guesses what the sequences of decode nodes will be.
//
//   decode ─ draft_follow ─► the draft's engine takes the tokens over, cuts what it guessed wrong, guesses on
//          ◄─ draft_guesses ─┘ after each of its passes, while the target verifies
//          ◄─ draft_behind ── it does not know the sequence (it restarted, it forgot, a message was lost): tell it again
//
// It owes nothing to anybody: what is late, lost or wrong costs decode speed, never a token. So each of these messages may
// come twice or not at all, it drains at once, and what it follows for a reader ends with the reader.
//
// Scheduled actor; its state is touched by its handlers only.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <map>
#include <memory>
#include <tuple>

#include "actors/draft_metrics.hpp"
#include "actors/driver.hpp"
#include "actors/interfaces.hpp"
#include "actors/node_services.hpp"

namespace troupe::actors {

// Who hears the guesses.
using draft_reader = caf::typed_actor<caf::reacts_to<draft_guesses>, caf::reacts_to<draft_behind>>;

struct draft_context {
  std::shared_ptr<node_services> node;
  std::shared_ptr<draft_metrics> metrics;
  std::unique_ptr<draft_driver> loop;  // made after the actor, ends after it
};

struct draft_state {
  static inline const char* name = "troupe.draft";
  explicit draft_state(draft_actor::pointer selfptr) : self(selfptr) {}
  draft_actor::behavior_type make_behavior();

  struct sequence {
    draft_reader reader;
    std::uint64_t id = 0;
    std::uint32_t try_number = 0;
  };
  using name_of = std::tuple<caf::actor_addr, std::uint64_t, std::uint32_t>;  // reader, id, try

  void follow(const draft_follow& m);
  void drop(const caf::actor_addr& reader, std::uint64_t id, std::uint32_t try_number);
  void tell(const draft_happened& m);
  void on_down(const caf::actor_addr& reader);

  draft_actor::pointer self;
  std::shared_ptr<draft_context> context;
  std::map<std::uint64_t, sequence> sequences;  // by the engine's key
  std::map<name_of, std::uint64_t> keys;
  std::map<caf::actor_addr, std::size_t> readers;  // monitored; how many sequences
  std::uint64_t next_key = 1;
};

draft_actor::behavior_type draft(draft_actor::stateful_pointer<draft_state> self,
                                 std::shared_ptr<draft_context> context);

}  // namespace troupe::actors
