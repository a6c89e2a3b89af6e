// Every message between actors, as plain structs of integers and strings.
//
// No tensors: KV moves through transport/. No floating point: CAF 0.17.6's serializer loops forever on infinities
// (upstream issue 1107), so floats travel as their bit patterns (actors/wire.hpp converts). Sizes are bounded by the
// sender's limits and checked again by the receiver.
#pragma once

#include <caf/meta/type_name.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace troupe::actors {

// Peers of another protocol version are refused when they join.
inline constexpr std::uint32_t protocol_version = 4;

enum class role : std::uint8_t { gateway, prefill, decode, kv_store, draft };
enum class node_state : std::uint8_t { joining, ready, draining, lost };

// -- membership --------------------------------------------------------------------------------------------------------
struct node_info {
  std::string name;         // "decode-0"
  std::uint64_t start = 0;  // incarnation: a restarted process is a new peer
  role kind = role::decode;
  std::string host;  // where its actor is published
  std::uint16_t port = 0;
  std::string transport_address;  // fabric::local_address(); empty for a gateway
  std::string model_name;
  std::string model_digest;   // hex; nodes of one cluster serve one model, but for drafts
  std::string kv_identity;    // hex of the KV identity: blocks can be exchanged when equal
  std::string identity_text;  // both of the above, for people
  std::string device;
  std::uint32_t num_blocks = 0;
  std::uint32_t block_tokens = 0;
  std::uint64_t block_bytes = 0;    // of one block on the wire; 0: unknown
  std::uint32_t max_model_len = 0;  // of a request, that its KV arena can hold; 0: unknown
  std::uint32_t max_num_seqs = 0;   // sequences that it runs at once
  std::uint32_t protocol = protocol_version;
  std::string vocabulary;  // hex: of what its token ids mean; a draft's must be the cluster's
};
template <class Inspector>
auto inspect(Inspector& f, node_info& x) {
  return f(caf::meta::type_name("node_info"), x.name, x.start, x.kind, x.host, x.port,
           x.transport_address, x.model_name, x.model_digest, x.kv_identity, x.identity_text,
           x.device, x.num_blocks, x.block_tokens, x.block_bytes, x.max_model_len, x.max_num_seqs,
           x.protocol, x.vocabulary);
}

struct node_load {
  std::uint32_t running = 0, waiting = 0, waiting_remote = 0, held = 0;
  std::uint64_t waiting_tokens = 0;
  std::uint32_t blocks_free = 0, blocks_cached = 0, blocks_writing = 0, blocks_sealed = 0,
                blocks_pulling = 0, blocks_quarantined = 0;
  std::uint64_t prompt_tokens = 0, generated_tokens = 0;  // since start
  std::uint64_t prefill_tokens_per_second = 0;            // measured; 0: not yet
  std::uint64_t decode_step_us = 0;
  std::uint64_t pull_bytes_per_second = 0;
};
template <class Inspector>
auto inspect(Inspector& f, node_load& x) {
  return f(caf::meta::type_name("node_load"), x.running, x.waiting, x.waiting_remote, x.held,
           x.waiting_tokens, x.blocks_free, x.blocks_cached, x.blocks_writing, x.blocks_sealed,
           x.blocks_pulling, x.blocks_quarantined, x.prompt_tokens, x.generated_tokens,
           x.prefill_tokens_per_second, x.decode_step_us, x.pull_bytes_per_second);
}

struct join_request {
  node_info info;
};
template <class Inspector>
auto inspect(Inspector& f, join_request& x) {
  return f(caf::meta::type_name("join_request"), x.info);
}

struct join_reply {
  ec code = ec::none;  // identity_mismatch names both identities in the detail
  std::string detail;
};
template <class Inspector>
auto inspect(Inspector& f, join_reply& x) {
  return f(caf::meta::type_name("join_reply"), x.code, x.detail);
}

struct heartbeat {
  std::string name;
  std::uint64_t start = 0;
  node_state state = node_state::joining;
  std::string note;  // while joining: "loading weights 43 %"
  node_load load;
};
template <class Inspector>
auto inspect(Inspector& f, heartbeat& x) {
  return f(caf::meta::type_name("heartbeat"), x.name, x.start, x.state, x.note, x.load);
}

struct member {
  node_info info;
  node_state state = node_state::joining;
  std::string note;
  node_load load;
  std::uint64_t heartbeat_age_ms = 0;
};
template <class Inspector>
auto inspect(Inspector& f, member& x) {
  return f(caf::meta::type_name("member"), x.info, x.state, x.note, x.load, x.heartbeat_age_ms);
}

struct membership {
  std::uint64_t version = 0;  // grows with every change of a node's state
  std::vector<member> members;
};
template <class Inspector>
auto inspect(Inspector& f, membership& x) {
  return f(caf::meta::type_name("membership"), x.version, x.members);
}

struct subscribe_request {
};  // the sender gets membership now, at each change and with each round of heartbeats
template <class Inspector>
auto inspect(Inspector& f, subscribe_request&) {
  return f(caf::meta::type_name("subscribe_request"));
}

// -- routing -----------------------------------------------------------------------------------------------------------
struct route_request {
  std::uint64_t id = 0;
  std::uint32_t prompt_tokens = 0;
  bool local_only = false;  // prompt logprobs: the whole prompt is computed where it is decoded
  std::vector<std::uint64_t> excluded;  // incarnations that failed this request
  std::vector<std::uint32_t> prompt;  // and what was generated; empty: its prefix is not looked up
  std::string cache_salt;
  std::uint32_t total_tokens = 0;  // with the longest answer; 0: any node holds it
};
template <class Inspector>
auto inspect(Inspector& f, route_request& x) {
  return f(caf::meta::type_name("route_request"), x.id, x.prompt_tokens, x.local_only, x.excluded,
           x.prompt, x.cache_salt, x.total_tokens);
}

struct route_plan {
  ec code = ec::none;  // no_worker: nobody decodes; context_exceeded: nobody holds so much
  std::string detail;
  node_info decode;
  bool has_prefill = false;
  node_info prefill;
  std::string reason;
  std::uint64_t predicted_ttft_us = 0;
  std::string
      choice;  // local, remote, local_store, remote_store: who reads it, with a store's help
  std::uint32_t cached_tokens = 0;  // expected at who reads it, or in a store
};
template <class Inspector>
auto inspect(Inspector& f, route_plan& x) {
  return f(caf::meta::type_name("route_plan"), x.code, x.detail, x.decode, x.has_prefill, x.prefill,
           x.reason, x.predicted_ttft_us, x.choice, x.cached_tokens);
}

// -- what nodes hold, for routers (engine/prefix_journal.hpp) ----------------------------------------------------------
struct prefix_events_request {  // answered with prefix_events; idempotent
  std::uint64_t next = 0;       // the first sequence number that is not known; 0: nothing is
  std::uint64_t since = 0;      // of the last answer
};
template <class Inspector>
auto inspect(Inspector& f, prefix_events_request& x) {
  return f(caf::meta::type_name("prefix_events_request"), x.next, x.since);
}

struct prefix_events {
  std::uint64_t start = 0;  // incarnation of the node
  std::uint64_t first = 0, next = 0, since = 0;
  bool reset = false;  // what was asked for is gone: a snapshot begins, forget the rest
  bool more = false;   // ask again at once
  std::vector<std::uint64_t> changes;  // blocks' keys in order; lowest bit: stored (1), removed (0)
};
template <class Inspector>
auto inspect(Inspector& f, prefix_events& x) {
  return f(caf::meta::type_name("prefix_events"), x.start, x.first, x.next, x.since, x.reset,
           x.more, x.changes);
}

// -- generation --------------------------------------------------------------------------------------------------------
struct sampling_wire {  // engine::sampling_params; *_bits are IEEE 754 bit patterns
  std::uint32_t temperature_bits = 0, top_p_bits = 0, top_k = 0, min_p_bits = 0;
  std::uint32_t repetition_penalty_bits = 0, presence_penalty_bits = 0, frequency_penalty_bits = 0;
  std::vector<std::uint32_t> bias_tokens, bias_bits;
  std::uint64_t seed = 0;
  std::uint32_t sequence_index = 0;
  std::int32_t logprobs = -1, prompt_logprobs = -1;  // -1: not asked for
  std::vector<std::uint32_t> stop_token_ids;
  bool ignore_eos = false;
  std::uint32_t min_tokens = 0, max_tokens = 0;
  std::uint8_t format_kind = 0;  // engine::structured::answer_format
  std::string format_source;
};
template <class Inspector>
auto inspect(Inspector& f, sampling_wire& x) {
  return f(caf::meta::type_name("sampling_wire"), x.temperature_bits, x.top_p_bits, x.top_k,
           x.min_p_bits, x.repetition_penalty_bits, x.presence_penalty_bits,
           x.frequency_penalty_bits, x.bias_tokens, x.bias_bits, x.seed, x.sequence_index,
           x.logprobs, x.prompt_logprobs, x.stop_token_ids, x.ignore_eos, x.min_tokens,
           x.max_tokens, x.format_kind, x.format_source);
}

struct generate_request {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::vector<std::uint32_t> prompt;
  std::vector<std::uint32_t> output;  // delivered by earlier attempts
  sampling_wire sampling;
  std::string cache_salt;
  std::uint64_t timeout_ms = 0;
  std::string tenant;         // client to gateway: whose share of the cluster it takes
  std::int32_t priority = 0;  // client to gateway: lower is served earlier
  bool has_prefill = false;   // gateway to decode: who reads the prompt
  node_info prefill;
  std::string route_reason;
};
template <class Inspector>
auto inspect(Inspector& f, generate_request& x) {
  return f(caf::meta::type_name("generate_request"), x.id, x.try_number, x.prompt, x.output,
           x.sampling, x.cache_salt, x.timeout_ms, x.tenant, x.priority, x.has_prefill, x.prefill,
           x.route_reason);
}

// Of whatever try: no gateway gives a request to one incarnation twice (route_request::excluded), and what two actors say
// to each other keeps its order.
struct cancel_request {
  std::uint64_t id = 0;
};
template <class Inspector>
auto inspect(Inspector& f, cancel_request& x) {
  return f(caf::meta::type_name("cancel_request"), x.id);
}

struct token_wire {
  std::uint32_t index = 0, token = 0, logprob_bits = 0;
  std::vector<std::uint32_t> top_tokens, top_bits;
};
template <class Inspector>
auto inspect(Inspector& f, token_wire& x) {
  return f(caf::meta::type_name("token_wire"), x.index, x.token, x.logprob_bits, x.top_tokens,
           x.top_bits);
}

struct generation_accepted {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
};
template <class Inspector>
auto inspect(Inspector& f, generation_accepted& x) {
  return f(caf::meta::type_name("generation_accepted"), x.id, x.try_number);
}

struct generation_tokens {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  bool of_prompt = false;  // logprobs of the prompt's own tokens
  std::vector<token_wire> tokens;
};
template <class Inspector>
auto inspect(Inspector& f, generation_tokens& x) {
  return f(caf::meta::type_name("generation_tokens"), x.id, x.try_number, x.of_prompt, x.tokens);
}

struct generation_finished {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::uint8_t reason = 0;  // engine::finish_reason
  ec code = ec::none;
  std::string detail;
  std::uint32_t prompt_tokens = 0, cached_tokens = 0, transferred_tokens = 0, completion_tokens = 0,
                preemptions = 0;
  std::uint64_t queue_us = 0, prefill_us = 0, transfer_us = 0, transfer_bytes = 0;
  std::string decode_node, prefill_node, route_reason, transfer_path;
  std::uint32_t blocks_pulled = 0, migrations = 0;
  std::uint32_t retry_after_s = 0;  // of a refusal
};
template <class Inspector>
auto inspect(Inspector& f, generation_finished& x) {
  return f(caf::meta::type_name("generation_finished"), x.id, x.try_number, x.reason, x.code,
           x.detail, x.prompt_tokens, x.cached_tokens, x.transferred_tokens, x.completion_tokens,
           x.preemptions, x.queue_us, x.prefill_us, x.transfer_us, x.transfer_bytes, x.decode_node,
           x.prefill_node, x.route_reason, x.transfer_path, x.blocks_pulled, x.migrations,
           x.retry_after_s);
}

// -- remote prefill: decode asks, prefill announces sealed blocks, decode pulls and releases ----------------------------
struct prefill_request {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::vector<std::uint32_t> prompt;
  std::vector<std::uint32_t> output;
  sampling_wire sampling;
  std::string cache_salt;
  std::uint64_t timeout_ms = 0;
  std::string reader_identity;  // kv_identity of the reader: refused unless equal
};
template <class Inspector>
auto inspect(Inspector& f, prefill_request& x) {
  return f(caf::meta::type_name("prefill_request"), x.id, x.try_number, x.prompt, x.output,
           x.sampling, x.cache_salt, x.timeout_ms, x.reader_identity);
}

struct block_wire {
  std::uint32_t block = 0;
  std::uint64_t generation = 0;
  std::uint32_t valid_tokens = 0;
};
template <class Inspector>
auto inspect(Inspector& f, block_wire& x) {
  return f(caf::meta::type_name("block_wire"), x.block, x.generation, x.valid_tokens);
}

struct blocks_ready {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::uint32_t first_block = 0;  // index in the request's block table
  std::vector<block_wire> blocks;
  bool last = false;
};
template <class Inspector>
auto inspect(Inspector& f, blocks_ready& x) {
  return f(caf::meta::type_name("blocks_ready"), x.id, x.try_number, x.first_block, x.blocks,
           x.last);
}

struct first_token {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  token_wire token;
};
template <class Inspector>
auto inspect(Inspector& f, first_token& x) {
  return f(caf::meta::type_name("first_token"), x.id, x.try_number, x.token);
}

struct prefill_failed {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  ec code = ec::internal;
  std::string detail;
};
template <class Inspector>
auto inspect(Inspector& f, prefill_failed& x) {
  return f(caf::meta::type_name("prefill_failed"), x.id, x.try_number, x.code, x.detail);
}

// Nothing more is read: the pulls have ended, or what they bring is not used. Of an old attempt it says nothing of a newer
// one. Idempotent.
struct release_request {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
};
template <class Inspector>
auto inspect(Inspector& f, release_request& x) {
  return f(caf::meta::type_name("release_request"), x.id, x.try_number);
}

// -- KV store: nodes offer what they computed and the store pulls it; readers look up, pull under a lease, release -----
struct offered_block {
  std::uint64_t hash_high = 0, hash_low = 0, parent_high = 0, parent_low = 0;
  std::vector<std::uint32_t> tokens;
  std::uint32_t index = 0;
  std::uint64_t prompt_tokens = 0;
  block_wire block;
};
template <class Inspector>
auto inspect(Inspector& f, offered_block& x) {
  return f(caf::meta::type_name("offered_block"), x.hash_high, x.hash_low, x.parent_high,
           x.parent_low, x.tokens, x.index, x.prompt_tokens, x.block);
}

struct store_offer {
  std::uint64_t node = 0;  // incarnation whose arena holds the blocks
  std::uint64_t number = 0;
  std::string kv_identity;  // refused unless equal to the store's
  std::vector<offered_block> blocks;
};
template <class Inspector>
auto inspect(Inspector& f, store_offer& x) {
  return f(caf::meta::type_name("store_offer"), x.node, x.number, x.kv_identity, x.blocks);
}

struct store_offer_done {  // the blocks were pulled, or are not wanted: the next offer may come
  std::uint64_t number = 0;
  std::uint32_t stored = 0, had = 0;  // blocks of the offer that are here now, and were before it
};
template <class Inspector>
auto inspect(Inspector& f, store_offer_done& x) {
  return f(caf::meta::type_name("store_offer_done"), x.number, x.stored, x.had);
}

struct store_lookup {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::string kv_identity;
  std::uint64_t root_high = 0, root_low = 0;  // engine::root_hash: of identity and cache salt
  std::vector<std::uint32_t> tokens;          // of whole blocks, from the prompt's beginning
  std::uint32_t first_block = 0;              // those before it are at the reader's
};
template <class Inspector>
auto inspect(Inspector& f, store_lookup& x) {
  return f(caf::meta::type_name("store_lookup"), x.id, x.try_number, x.kv_identity, x.root_high,
           x.root_low, x.tokens, x.first_block);
}

struct store_found {  // in order; blocks from the disk come as they are read
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::uint32_t first_block = 0;
  std::vector<block_wire> blocks;
  bool last = false;
  std::uint32_t copies = 1;  // stores, in the prompt's order, that have it: readers take turns
};
template <class Inspector>
auto inspect(Inspector& f, store_found& x) {
  return f(caf::meta::type_name("store_found"), x.id, x.try_number, x.first_block, x.blocks, x.last,
           x.copies);
}

struct clear_request {};  // a store forgets what nobody reads; answered with the number of blocks
template <class Inspector>
auto inspect(Inspector& f, clear_request&) {
  return f(caf::meta::type_name("clear_request"));
}

// -- draft: decode tells what its sequences hold, the draft guesses what follows ---------------------------------------
// The target's tokens from position `first` on; those before it were told earlier.
struct draft_follow {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::uint32_t first = 0;
  std::vector<std::uint32_t> tokens;
  std::uint32_t num_prompt = 0;  // the prompt's: output begins there
  sampling_wire sampling;        // with first == 0: guesses are drawn as the target draws
};
template <class Inspector>
auto inspect(Inspector& f, draft_follow& x) {
  return f(caf::meta::type_name("draft_follow"), x.id, x.try_number, x.first, x.tokens,
           x.num_prompt, x.sampling);
}

struct draft_drop {  // the sequence has ended; idempotent
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
};
template <class Inspector>
auto inspect(Inspector& f, draft_drop& x) {
  return f(caf::meta::type_name("draft_drop"), x.id, x.try_number);
}

struct draft_guess {  // tokens[i] is meant for position first + i
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::uint32_t first = 0;
  std::vector<std::uint32_t> tokens;
  std::vector<std::uint8_t> sureness;  // the draft's probability of each, in 255ths
};
template <class Inspector>
auto inspect(Inspector& f, draft_guess& x) {
  return f(caf::meta::type_name("draft_guess"), x.id, x.try_number, x.first, x.tokens, x.sureness);
}

struct draft_guesses {  // of one pass of the draft
  std::vector<draft_guess> all;
};
template <class Inspector>
auto inspect(Inspector& f, draft_guesses& x) {
  return f(caf::meta::type_name("draft_guesses"), x.all);
}

// The draft does not know the sequence from position `known` on: tell it again.
struct draft_behind {
  std::uint64_t id = 0;
  std::uint32_t try_number = 0;
  std::uint32_t known = 0;
};
template <class Inspector>
auto inspect(Inspector& f, draft_behind& x) {
  return f(caf::meta::type_name("draft_behind"), x.id, x.try_number, x.known);
}

struct pin_request {  // keeps what stores have of a prompt; idempotent, and renews the time
  std::vector<std::uint32_t> tokens;  // the prompt; empty: hash names its last block
  std::string cache_salt;
  std::uint64_t hash_high = 0, hash_low = 0;
  std::uint64_t ttl_s = 0;  // 0: until it is unpinned
  bool pinned = true;       // false: unpin
};
template <class Inspector>
auto inspect(Inspector& f, pin_request& x) {
  return f(caf::meta::type_name("pin_request"), x.tokens, x.cache_salt, x.hash_high, x.hash_low,
           x.ttl_s, x.pinned);
}

struct pin_reply {
  std::uint64_t blocks = 0;                   // that are pinned, or were
  std::uint64_t hash_high = 0, hash_low = 0;  // of the last of them
};
template <class Inspector>
auto inspect(Inspector& f, pin_reply& x) {
  return f(caf::meta::type_name("pin_reply"), x.blocks, x.hash_high, x.hash_low);
}

// -- operators ---------------------------------------------------------------------------------------------------------
struct metrics_request {};  // answered with Prometheus text
template <class Inspector>
auto inspect(Inspector& f, metrics_request&) {
  return f(caf::meta::type_name("metrics_request"));
}

struct drain_request {           // no new work; what runs finishes, and then the node leaves
  std::uint64_t timeout_ms = 0;  // after it a decode node gives its requests to others; 0: never
  bool restart = false;          // its supervisor starts it again
};
template <class Inspector>
auto inspect(Inspector& f, drain_request& x) {
  return f(caf::meta::type_name("drain_request"), x.timeout_ms, x.restart);
}

struct drain_node_request {  // to a gateway
  std::string node;          // its name
  drain_request how;
  bool force = false;  // even the last decode node
};
template <class Inspector>
auto inspect(Inspector& f, drain_node_request& x) {
  return f(caf::meta::type_name("drain_node_request"), x.node, x.how, x.force);
}

struct drain_reply {
  ec code = ec::none;  // not_found; invalid_argument: it is the last decode node
  std::string detail;
};
template <class Inspector>
auto inspect(Inspector& f, drain_reply& x) {
  return f(caf::meta::type_name("drain_reply"), x.code, x.detail);
}

}  // namespace troupe::actors
