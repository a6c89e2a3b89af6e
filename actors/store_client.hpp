// A node's dealings with the KV stores, one actor a node.
//
// Reading. A prompt that the engine waits with (generation_request::from_store) is looked up in its home, the store that
// its first block hashes to (store_order.hpp), or in one that has a copy; what is there is pulled in ranges, and after each range the measured speeds decide whether the next one
// is fetched or computed. Whatever happens (store unknown, silent, slow, dead, a fence that does not match), the engine
// is told to compute the rest, within a time that the computation itself bounds:
//
//   prefix_wanted ─► store_lookup ─► store_found* ─► pull ─► verified ─► pull ... ─► remote_failed: the engine goes on
//                        └─ silence ──────┴── fence, deadline, slower than computing ─┘   release_request to the store
//
// A store that is lost, silent or has nothing is followed by the next one that should have a copy, once.
//
// Offering. Full blocks that the engine computed wait in a bounded queue; a store has one offer of a node at a time and
// pulls its blocks; what does not fit the queue is forgotten, oldest first. A block that was reused before the store came
// fails its fence there.
//
// Scheduled actor; its state is touched by its handlers only.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <deque>
#include <map>

#include "actors/interfaces.hpp"
#include "actors/node_services.hpp"
#include "actors/peer_set.hpp"
#include "actors/store_order.hpp"

namespace troupe::actors {

struct store_client_state {
  static inline const char* name = "troupe.store_client";
  explicit store_client_state(store_client_actor::pointer selfptr) : self(selfptr) {}
  store_client_actor::behavior_type make_behavior();

  using time_point = std::chrono::steady_clock::time_point;
  struct store_data {
    bool leaving = false;
    double bytes_per_second = 0;  // of pulls from it, smoothed; 0: not measured of late
    time_point measured{};
    time_point quiet_until{};  // it did not answer: not asked before
    std::chrono::milliseconds penalty{0};
    std::uint32_t readers = 0, fetches = 0;  // of all nodes as it last told, and of ours now
    std::deque<offered_block> offers;
    std::uint64_t offer_number = 0;  // of the offer under way; 0: none
    time_point offer_deadline{};
  };
  using store_table = peer_set<kv_store_actor, store_data>;
  using store = store_table::peer;
  // A prompt that is looked up or fetched.
  struct fetch {
    std::uint32_t try_number = 0;
    std::uint64_t store = 0;
    std::vector<std::uint64_t> asked;  // stores, this one included
    std::shared_ptr<const std::vector<token_id>> tokens;
    hash128_t root, first;         // of the chain, of its first block
    std::uint32_t next_block = 0;  // of the prompt: the next to pull
    std::deque<block_wire> found;  // from next_block on
    bool all_found = false, pulling = false, answered = false;
    bool computing = false;  // the engine does not wait any more
    std::uint32_t blocks_fetched = 0, range = 0;
    time_point started{}, deadline{};
    double predicted_seconds = 0;  // of fetching and computing the rest
  };
  using key = std::pair<std::uint64_t, std::uint32_t>;  // request, try

  // -- reading (store_client.cpp) ----------------------------------------------------------------------------------------
  void look_up(const prefix_wanted& w);
  bool ask(key id);  // false: no store is left to ask
  void on_found(const store_found& m);
  void pull_next(key id);
  void on_pulled(const store_pulled& m);
  void end(key id, const char* outcome);
  void leave_store(fetch& f, const key& id, std::string_view outcome);
  double compute_seconds(std::uint64_t tokens) const;
  std::uint64_t block_bytes() const;
  std::chrono::milliseconds patience() const { return node->options.store_patience; }
  bool patient() const { return patience().count() > 0; }

  // -- stores and offers (store_client_offers.cpp) ---------------------------------------------------------------------
  void on_membership(const membership& m);
  void on_lost(std::uint64_t start, const store& lost, const std::string& why);
  void offer(const engine::events& e);
  void send_offer(store& s);
  void tick();
  void watch();
  void update_ready();
  std::vector<store_place> order_of(const hash128_t& first_block) const;
  std::uint32_t copies_of(const hash128_t& first_block) const;
  void learn_copies(const hash128_t& first_block, std::uint32_t copies);

  store_client_actor::pointer self;
  std::shared_ptr<node_services> node;
  hash128_t kv_identity;
  store_table stores;
  std::map<key, fetch> fetches;
  std::map<hash128_t, std::uint32_t> copies;  // more than replicas: by first block, as stores told
  std::uint64_t next_offer = 1, turn = 0;
  bool offering = false, watching = false;
};

store_client_actor::behavior_type store_client(
    store_client_actor::stateful_pointer<store_client_state> self,
    std::shared_ptr<node_services> node, hash128_t kv_identity);

// On the engine's thread: adds a request that no peer prefills, by way of a store where there is one.
result<void> add_by_store(const std::shared_ptr<node_services>& node, engine::engine& engine,
                          engine::generation_request request, engine::time_point now);

}  // namespace troupe::actors
