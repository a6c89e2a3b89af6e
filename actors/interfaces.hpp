// The catalogue: every typed actor, and every message it takes. Behaviours live in the actor's own .cpp.
#pragma once

#include <caf/allowed_unsafe_message_type.hpp>

#include <caf/replies_to.hpp>
#include <caf/type_id.hpp>
#include <caf/typed_actor.hpp>
#include <functional>
#include <memory>

#include "actors/messages.hpp"
#include "engine/engine.hpp"

namespace troupe::actors {

class generation_sink;
struct generation;

// -- inside one process only: never serialized ---------------------------------------------------------------------------
struct engine_happened {  // the engine loop's thread to its role actor
  std::shared_ptr<const engine::events> events;
};
struct pull_happened {  // the transport's thread, by way of the engine loop, to decode
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::uint32_t blocks = 0, failed_blocks = 0;
  error failure;  // of the transfer itself, or of the first fence that did not match
};
struct request_refused {  // the engine did not take a request
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  bool remote = false;  // it was to be filled by a peer
  error failure;
};
struct request_admitted {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
};
struct link_lost {  // the transport to a peer broke
  std::uint64_t start = 0;
  error why;
};
struct prefix_wanted {  // the engine's thread to the store client: look this prompt up
  request_id id{};
  attempt try_number = 0;
  std::shared_ptr<const std::vector<token_id>> tokens;  // of its whole blocks
  std::string cache_salt;
  std::uint32_t first_block = 0;  // those before it are here
};
struct store_pulled {  // the transport's thread: a pull ended, in a store or of a store
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::vector<bool> ok;
  std::uint64_t bytes = 0;
  std::chrono::nanoseconds duration{};
  error failure;
};
struct blocks_loaded {  // the disk's thread: blocks were read into the arena
  std::uint64_t id = 0;
  std::vector<bool> ok;
};
struct draft_begin {  // decode to the draft client: a request that the engine was given
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::shared_ptr<const generate_request> request;
};
// The draft loop's thread to its actor: what a pass guessed, what it cannot follow.
struct draft_happened {
  std::vector<draft_guess> guesses;
  std::vector<draft_behind> behind;
};
struct node_reached {  // the gateway to its router: a node that can be asked what it holds
  std::uint64_t start = 0;
  caf::strong_actor_ptr actor;
};
struct submit_generation {  // a door to the gateway service
  std::uint64_t id = 0;
  std::shared_ptr<generation> what;
  std::shared_ptr<generation_sink> sink;
};

}  // namespace troupe::actors

CAF_BEGIN_TYPE_ID_BLOCK(troupe, caf::first_custom_type_id)
CAF_ADD_TYPE_ID(troupe, (troupe::actors::node_info))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::node_load))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::join_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::join_reply))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::heartbeat))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::member))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::membership))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::subscribe_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::route_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::route_plan))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::sampling_wire))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::generate_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::cancel_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::token_wire))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::generation_accepted))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::generation_tokens))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::generation_finished))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::prefill_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::block_wire))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::blocks_ready))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::first_token))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::prefill_failed))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::release_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::metrics_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::drain_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::drain_node_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::drain_reply))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::engine_happened))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::pull_happened))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::request_refused))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::request_admitted))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::link_lost))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::submit_generation))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::offered_block))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::store_offer))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::store_offer_done))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::store_lookup))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::store_found))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::clear_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::prefix_wanted))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::store_pulled))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::blocks_loaded))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::prefix_events_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::prefix_events))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::node_reached))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::pin_request))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::pin_reply))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::draft_follow))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::draft_drop))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::draft_guess))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::draft_guesses))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::draft_behind))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::draft_begin))
CAF_ADD_TYPE_ID(troupe, (troupe::actors::draft_happened))
CAF_END_TYPE_ID_BLOCK(troupe)

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::engine_happened)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::pull_happened)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::request_refused)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::request_admitted)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::link_lost)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::submit_generation)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::prefix_wanted)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::store_pulled)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::blocks_loaded)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::node_reached)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::draft_begin)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::draft_happened)

namespace troupe::actors {

// Who is in the cluster and how loaded. One a cluster; state is rebuilt from the nodes after a restart.
using directory_actor = caf::typed_actor<
    caf::replies_to<join_request>::with<
        join_reply>,            // idempotent; refuses another model or protocol
    caf::reacts_to<heartbeat>,  // an unknown sender is told to join again by silence: it re-joins
    caf::reacts_to<subscribe_request>,
    caf::reacts_to<caf::tick_atom>>;  // INTERNAL: watchdog over heartbeats

using membership_listener = caf::typed_actor<caf::reacts_to<membership>>;
using link_listener = caf::typed_actor<caf::reacts_to<link_lost>>;
using engine_listener = caf::typed_actor<caf::reacts_to<engine_happened>>;

// Chooses decode and prefill for a request. In the gateway's process.
using router_actor =
    caf::typed_actor<caf::replies_to<route_request>::with<route_plan>, caf::reacts_to<membership>,
                     caf::reacts_to<prefix_events>,  // of nodes that it asked
                     caf::reacts_to<node_reached>>;  // INTERNAL

// What every node with blocks answers, and who hears it.
using prefix_source = caf::typed_actor<caf::reacts_to<prefix_events_request>>;
using prefix_listener = caf::typed_actor<caf::reacts_to<prefix_events>>;

// Receives one generation after another: a gateway, or the client of a gateway.
using stream_sink_actor =
    caf::typed_actor<caf::reacts_to<generation_accepted>,
                     caf::reacts_to<generation_tokens>,     // consecutive indices of one attempt
                     caf::reacts_to<generation_finished>>;  // exactly once a request, last

// The door's side of a request: routes, follows, migrates. Streams to the sender of generate_request.
using gateway_actor =
    caf::typed_actor<caf::reacts_to<generate_request>, caf::reacts_to<cancel_request>,
                     caf::reacts_to<generation_accepted>, caf::reacts_to<generation_tokens>,
                     caf::reacts_to<generation_finished>, caf::reacts_to<membership>,
                     caf::reacts_to<subscribe_request>,
                     caf::replies_to<metrics_request>::with<std::string>,
                     caf::replies_to<clear_request>::with<std::uint64_t>,
                     caf::replies_to<pin_request>::with<pin_reply>, caf::reacts_to<drain_request>,
                     caf::replies_to<drain_node_request>::with<drain_reply>,
                     caf::reacts_to<caf::tick_atom>>;  // INTERNAL: deadlines

using decode_actor =
    caf::typed_actor<caf::reacts_to<generate_request>,  // streams to its sender
                     caf::reacts_to<cancel_request>, caf::reacts_to<blocks_ready>,
                     caf::reacts_to<first_token>, caf::reacts_to<prefill_failed>,  // from prefill
                     caf::reacts_to<membership>,
                     caf::replies_to<metrics_request>::with<std::string>,
                     caf::reacts_to<prefix_events_request>, caf::reacts_to<drain_request>,
                     caf::reacts_to<engine_happened>, caf::reacts_to<pull_happened>,
                     caf::reacts_to<link_lost>,                                          // INTERNAL
                     caf::reacts_to<request_refused>, caf::reacts_to<request_admitted>,  // INTERNAL
                     caf::reacts_to<caf::tick_atom>>;                                    // INTERNAL

using prefill_actor =
    caf::typed_actor<caf::reacts_to<prefill_request>,  // announces blocks to its sender
                     caf::reacts_to<release_request>,
                     caf::replies_to<metrics_request>::with<std::string>,
                     caf::reacts_to<prefix_events_request>, caf::reacts_to<drain_request>,
                     caf::reacts_to<engine_happened>,
                     caf::reacts_to<request_refused>>;  // INTERNAL

// Keeps blocks that any node computed for all of them.
using kv_store_actor = caf::typed_actor<
    caf::reacts_to<store_offer>,   // answered with store_offer_done
    caf::reacts_to<store_lookup>,  // answered with store_found, once or more
    caf::reacts_to<release_request>, caf::replies_to<clear_request>::with<std::uint64_t>,
    caf::replies_to<pin_request>::with<pin_reply>, caf::reacts_to<prefix_events_request>,
    caf::reacts_to<store_offer_done>,  // from another store, of a copy
    caf::reacts_to<membership>, caf::replies_to<metrics_request>::with<std::string>,
    caf::reacts_to<drain_request>, caf::reacts_to<store_pulled>,  // INTERNAL
    caf::reacts_to<blocks_loaded>, caf::reacts_to<link_lost>,     // INTERNAL
    caf::reacts_to<caf::tick_atom>>;                              // INTERNAL

// A node's dealings with the stores.
using store_client_actor =
    caf::typed_actor<caf::reacts_to<membership>, caf::reacts_to<store_offer_done>,
                     caf::reacts_to<store_found>, caf::reacts_to<prefix_wanted>,     // INTERNAL
                     caf::reacts_to<engine_happened>, caf::reacts_to<store_pulled>,  // INTERNAL
                     caf::reacts_to<link_lost>, caf::reacts_to<caf::tick_atom>>;     // INTERNAL

// Guesses what the sequences of decode nodes will be.
using draft_actor =
    caf::typed_actor<caf::reacts_to<draft_follow>,  // answered with draft_guesses or draft_behind
                     caf::reacts_to<draft_drop>,
                     caf::replies_to<metrics_request>::with<std::string>,
                     caf::reacts_to<drain_request>, caf::reacts_to<draft_happened>>;  // INTERNAL

// A decode node's dealings with drafts.
using draft_client_actor =
    caf::typed_actor<caf::reacts_to<membership>, caf::reacts_to<draft_guesses>,
                     caf::reacts_to<draft_behind>, caf::reacts_to<draft_begin>,  // INTERNAL
                     caf::reacts_to<engine_happened>>;                           // INTERNAL

// A door's end of the gateway: turns messages into calls of a generation_sink.
using service_actor =
    caf::typed_actor<caf::reacts_to<submit_generation>,  // INTERNAL
                     caf::reacts_to<cancel_request>, caf::reacts_to<generation_accepted>,
                     caf::reacts_to<generation_tokens>, caf::reacts_to<generation_finished>,
                     caf::reacts_to<membership>>;

// Joins the directory, sends heartbeats, hears membership for its role actor.
using node_agent_actor = caf::typed_actor<caf::reacts_to<membership>, caf::reacts_to<drain_request>,
                                          caf::reacts_to<caf::tick_atom>>;  // INTERNAL

// f(a null handle of the actor that a node of that role has): for what is the same but for the type.
template <class F>
auto with_handle_of(role kind, F&& f) {
  switch (kind) {
    case role::decode:
      return f(decode_actor());
    case role::kv_store:
      return f(kv_store_actor());
    case role::draft:
      return f(draft_actor());
    case role::prefill:
    case role::gateway:
      break;
  }
  return f(prefill_actor());
}

}  // namespace troupe::actors
