// The KV store actor: keeps blocks that any node computed, for all of them (engine/kv_store/ decides what is kept).
//
//   a node offers ─► is it new, is it worth the room? ─► the store pulls it, verifies the fence, seals it as its own
//   a node looks up ─► leases what is here, reads the rest from the disk ─► the node pulls ─► releases, dies, or is late
//
// Among several stores a prompt has a home (store_order.hpp); what is asked for often is copied to those that follow. A
// store that leaves hands its blocks on, and one that comes gets its share, by the same pulls (kv_store_handover.cpp).
//
// Nobody writes into its memory. A lease keeps blocks from being evicted while a reader pulls; what goes wrong with a
// lease costs the reader a fence that does not match, and then it computes. Losing the store loses speed, nothing else.
//
// Scheduled actor; all state is touched by its handlers only. Its arena is written by the transport's thread between
// reserve and the pull's end, by the disk's thread between a load's start and its end, and by handlers for the fence.
#pragma once

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>

#include "actors/interfaces.hpp"
#include "actors/node_services.hpp"
#include "actors/store_disk.hpp"
#include "actors/store_metrics.hpp"
#include "actors/store_order.hpp"
#include "engine/kv_store/block_store.hpp"

namespace troupe::actors {

// Who hears store_found.
using store_reader = caf::typed_actor<caf::reacts_to<store_found>>;
using store_offerer = caf::typed_actor<caf::reacts_to<store_offer_done>>;

struct kv_store_context {
  std::shared_ptr<node_services> node;
  std::shared_ptr<store_metrics> metrics;
  engine::block_store_options options;
  hash128_t kv_identity;
  std::span<std::byte> arena;
  std::size_t stride = 0, sealed_bytes = 0;  // of a block: distance, and payload with fence
  std::unique_ptr<engine::block_file> file;  // null: memory only
};

struct kv_store_state {
  static inline const char* name = "troupe.kv_store";
  explicit kv_store_state(kv_store_actor::pointer selfptr) : self(selfptr) {}
  kv_store_actor::behavior_type make_behavior();

  struct offer {  // blocks of a node that are being pulled
    std::uint64_t number = 0, node = 0;
    store_offerer from;
    std::vector<block_id> blocks;
    std::uint32_t had = 0;  // others of it were here
  };
  struct reader {
    caf::actor_addr actor;
    std::uint64_t request = 0;
    friend auto operator<=>(const reader& a, const reader& b) {
      if (auto by_request = a.request <=> b.request; by_request != 0) return by_request;
      return a.actor.compare(b.actor) <=> 0;
    }
    friend bool operator==(const reader& a, const reader& b) {
      return a.request == b.request && a.actor == b.actor;
    }
  };
  struct held {  // by a reader, for the latest try of its request
    std::uint64_t lease = 0;
    std::uint32_t try_number = 0;
  };

  using time_point = std::chrono::steady_clock::time_point;
  // A lookup whose blocks are sent as they come from the disk.
  struct answer {
    store_reader to;
    std::uint64_t request = 0, lease = 0;
    std::uint32_t try_number = 0, first = 0, copies = 1;
    std::vector<block_id> blocks;
    std::vector<bool> ready;
    std::size_t sent = 0;
    std::size_t limit = 0;  // blocks from here on could not be read
    std::size_t loading = 0;
    bool told_last = false;
  };
  // What the disk's thread has to do for us: read blocks of an answer, or write one.
  struct disk_job {
    std::uint64_t answer = 0;  // 0: a write
    std::size_t first = 0;     // index in the answer
    std::vector<engine::record_id> records;
    time_point started{};
    std::uint64_t taker = 0;       // not 0: blocks for that store, by its incarnation
    std::vector<block_id> blocks;  // of them
  };
  void take(const store_offer& m);
  void on_pulled(const store_pulled& m);
  void look_up(const store_lookup& m);
  void release(const caf::actor_addr& actor, const release_request& r);
  void end_lease(std::map<reader, held>::iterator at);
  void on_membership(const membership& m);
  void tick();
  void end_leases(const std::vector<std::uint64_t>& ended);
  std::uint64_t clear();

  // -- copies and pins (kv_store_copies.cpp) -----------------------------------------------------------------------------
  struct other_store {
    node_info info;
    kv_store_actor actor;  // null: not connected
    bool connecting = false;
    bool takes = true;  // it does not leave itself
  };
  struct prompt_heat {  // how often a prompt, by its first block, is asked for
    std::uint32_t lookups = 0;
    time_point since{}, copy_began{};
    std::uint64_t copying = 0;  // our number of the offer under way
    std::set<std::uint64_t> copied_to;
  };
  struct copy {
    hash128_t first;
    std::uint64_t to = 0, lease = 0;
  };
  static constexpr std::size_t most_chain = 1 << 16;
  std::vector<store_place> order_of(const hash128_t& first) const;
  std::uint32_t heat_up(const hash128_t& first, std::span<const block_id> here);
  void copy_to(std::uint64_t start, const hash128_t& first, prompt_heat& heat,
               std::span<const block_id> blocks);
  void on_copied(const store_offer_done& m);
  store_offer offer_of(std::uint64_t number, std::span<const block_id> blocks) const;
  void connect_store(other_store& s);
  void on_store_down(const caf::actor_addr& actor);
  pin_reply pin(const pin_request& r);
  const engine::block_key* find_key(const hash128_t& hash) const;

  // -- leaving and sharing (kv_store_handover.cpp) -----------------------------------------------------------------------
  using pin_list = std::vector<std::pair<hash128_t, time_point>>;  // blocks, and until when
  struct handover {  // what another store gets from this one
    std::deque<hash128_t> waiting;
    std::uint64_t number = 0, lease = 0;  // of the offer under way; 0: none
    std::vector<block_id> blocks;         // of it
    std::vector<block_id> from_file;      // and of these, which room is only lent to
    std::uint64_t reading = 0;            // the disk's job for the next offer; 0: none
    std::uint32_t offered = 0, refusals = 0;
    time_point began{};
    pin_list pins;  // to be set there when all is there
  };
  void leave(const drain_request& how);
  bool busy_leaving();
  void share_with(std::uint64_t newcomer);
  std::vector<std::uint64_t> owners_of(const hash128_t& first, bool with_me) const;
  struct owned_block {
    const engine::block_key* key;
    std::optional<time_point> pinned_until;
  };
  void plan_handovers(const std::vector<owned_block>& blocks, bool with_me,
                      std::optional<std::uint64_t> only);
  std::vector<owned_block> blocks_in_memory() const;
  static std::unordered_map<hash128_t, hash128_t> first_blocks(std::vector<owned_block> blocks);
  bool on_handed_on(const store_offer_done& m);
  void hand_on();  // the next blocks to every store that waits for some
  void offer_next(std::uint64_t to);
  void send_offer(std::uint64_t to);
  void end_offer(handover& h, bool keep);
  void pass_pins(other_store& to, const pin_list& pins);
  void give_up(std::uint64_t to);  // on what waits for that store

  // -- leaving with a file (kv_store_handover_disk.cpp) ------------------------------------------------------------------
  void hand_on_file();
  std::size_t blocks_of_one_offer() const;
  void read_for(std::uint64_t to, const std::vector<engine::record_id>& records);
  void on_read_for(const disk_job& job, const blocks_loaded& m);

  // -- disk (kv_store_disk.cpp) ------------------------------------------------------------------------------------------
  void open_disk();
  void save(block_id b);
  void load(std::uint64_t answer_number, const std::vector<engine::record_id>& records);
  void on_disk(const blocks_loaded& m);
  void send_ready(std::uint64_t answer_number);

  std::span<std::byte> bytes(block_id b) const {
    return context->arena.subspan(b * context->stride, context->sealed_bytes);
  }
  transport::block_tag tag(block_id b) const;
  std::string metrics_text();

  kv_store_actor::pointer self;
  std::shared_ptr<kv_store_context> context;
  std::unique_ptr<engine::block_store> store;
  std::map<std::uint64_t, offer> offers;  // by our number of the pull
  std::map<reader, held> leases;
  std::set<caf::actor_addr> watched;
  std::set<std::uint64_t> peers;                      // incarnations that the fabric knows
  std::map<std::uint64_t, other_store> other_stores;  // by incarnation
  std::map<hash128_t, prompt_heat> prompts;           // by first block
  std::map<std::uint64_t, copy> copies;               // by our number
  std::map<std::uint64_t, handover> handovers;        // by the incarnation of who gets it
  std::uint64_t next_pull = 1, next_lease = 1, next_copy = 1;
  time_point leaves_by{};                   // set once it leaves: nothing is handed on after that
  std::chrono::milliseconds leave_time{0};  // that whoever drains it allows
  bool file_is_planned = false;             // what is in the file only is handed on
  std::map<std::uint64_t, answer> answers;  // by our number
  std::map<std::uint64_t, disk_job> jobs;
  std::uint64_t next_answer = 1, next_job = 1;
  time_point disk_rests_until{};     // it refused a write
  std::unique_ptr<store_disk> disk;  // last: its thread ends before what it calls
};

kv_store_actor::behavior_type kv_store(kv_store_actor::stateful_pointer<kv_store_state> self,
                                       std::shared_ptr<kv_store_context> context);

}  // namespace troupe::actors
