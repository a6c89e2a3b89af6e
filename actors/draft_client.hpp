// A decode node's dealings with drafts, one actor a node. Drafts are told the tokens of the sequences that run here, and
// their guesses are handed to the engine, which checks them:
//
//   draft_begin, tokens ─► draft_follow ─► (the draft drafts ahead) ─► draft_guesses ─► engine::offer_draft
//                 draft_behind ─► from where it knows nothing it is told again, with the next token
//
// While there is no draft, nothing is copied for one: node_services::drafts_ready tells the decode actor and the engine's
// thread. When the first one comes, the engine says what runs (engine::running_texts).
//
// Nobody waits for a draft. One that is dead, paused, slow or talks nonsense costs speed: guesses are checked for form
// here, late ones are dropped by their position, and the engine counts only tokens that it would have chosen itself. While
// the engine does not want guesses (speculation_stats::draft_wanted: decoding is not faster with them) nothing is told.
//
// Scheduled actor; its state is touched by its handlers only.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <map>
#include <memory>
#include <vector>

#include "actors/interfaces.hpp"
#include "actors/node_services.hpp"
#include "actors/peer_set.hpp"

namespace troupe::actors {

struct draft_client_state {
  static inline const char* name = "troupe.draft_client";
  explicit draft_client_state(draft_client_actor::pointer selfptr) : self(selfptr) {}
  draft_client_actor::behavior_type make_behavior();

  using time_point = std::chrono::steady_clock::time_point;
  struct peer_data {            // of a draft
    std::uint32_t unheard = 0;  // messages to it since it last answered
    time_point retry_at{};      // while there are too many of them
  };
  using peer_table = peer_set<draft_actor, peer_data>;
  using peer = peer_table::peer;
  // A request of the engine here.
  struct sequence {
    std::uint32_t try_number = 0;
    std::vector<std::uint32_t> tokens;  // prompt and output
    std::uint32_t num_prompt = 0;
    sampling_wire sampling;
    std::uint64_t draft = 0;  // who follows it; 0: nobody yet
    std::uint32_t told = 0;   // tokens that it was told
  };

  void begin(const draft_begin& m);
  void ask_engine();  // for the requests that it runs
  void on_events(const engine::events& e);
  void tell(std::uint64_t id, sequence& s);
  void on_guesses(const draft_guesses& m);
  void on_behind(const draft_behind& m);
  void end(std::uint64_t id);

  void on_lost(std::uint64_t start, const peer& lost, const std::string& why);
  void update_expected();
  peer* draft_of(std::uint64_t id, sequence& s);

  draft_client_actor::pointer self;
  std::shared_ptr<node_services> node;
  peer_table peers;
  std::map<std::uint64_t, sequence> sequences;  // by request
  bool expected = false;                        // the engine knows that there is a draft
  bool asking = false;                          // the engine, what runs there
};

draft_client_actor::behavior_type draft_client(
    draft_client_actor::stateful_pointer<draft_client_state> self,
    std::shared_ptr<node_services> node);

}  // namespace troupe::actors
