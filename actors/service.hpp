// The seam between doors (HTTP, command line, programs) and the cluster: token ids in, token ids out.
//
// Implemented by actors/gateway_service over a gateway actor, in this process or far away. No CAF types here, so that
// doors compile without CAF.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "engine/generation.hpp"

namespace troupe::actors {

struct generation {
  std::vector<token_id> prompt;
  engine::sampling_params sampling;
  std::string cache_salt;
  std::chrono::milliseconds timeout{600'000};  // of the whole answer; never infinite
  std::string
      tenant;  // whose share of the cluster it takes; an HTTP door gives one to each API key
  std::int32_t priority = 0;  // lower is served earlier
};

// Who did what, for `troupe run`, logs and the quickstart.
struct generation_trace {
  std::string decode_node, prefill_node;  // prefill_node empty: decode read the prompt itself
  std::string route_reason;               // "remote prefill: predicted 120 ms, local 310 ms"
  std::string transfer_path;              // "shm", "tcp", ...
  std::uint32_t blocks_pulled = 0;
  std::uint32_t migrations = 0;
};

struct generation_end {
  engine::finish_reason reason = engine::finish_reason::none;
  error failure;                        // reason == error: what the client is told
  std::chrono::seconds retry_after{0};  // of a refusal: when another try may be worth it
  engine::generation_usage usage;
  generation_trace trace;
};

// Receives one generation. Calls come one at a time, in order, on a thread of the service: they must not block.
class generation_sink {
 public:
  virtual ~generation_sink() = default;
  virtual void on_accepted() {}  // admitted by a decode node: an HTTP door may send its headers
  virtual void on_prompt_logprobs(std::vector<engine::token_output>) {}
  virtual void on_tokens(
      std::vector<engine::token_output> tokens) = 0;  // consecutive indices, no gap, no duplicate
  virtual void on_finished(generation_end end) = 0;   // exactly once, last
};

struct node_status {
  std::string name, role, state;  // state: joining, ready, draining, lost
  std::string host;
  std::uint16_t port = 0;
  std::uint64_t incarnation = 0;
  std::string model, device, kv_identity;
  std::uint32_t running = 0, waiting = 0;
  std::uint32_t blocks_total = 0, blocks_free = 0, blocks_cached = 0, blocks_used = 0,
                blocks_quarantined = 0;
  std::uint64_t prompt_tokens = 0, generated_tokens = 0;
  double heartbeat_age_seconds = 0;
};
struct cluster_status {
  std::vector<node_status> nodes;
  std::uint32_t requests_in_flight = 0;
  bool ready = false;  // a decode node serves
  bool draining = false;
  std::string loading;  // why not ready: "decode-0: loading weights 43 %"
};

// What KV stores keep of a prompt for an operator.
struct prefix_pin {
  std::vector<token_id> tokens;  // the prompt; empty: hash names its last block
  std::string cache_salt;
  std::string hash;             // 32 hex digits
  std::chrono::seconds ttl{0};  // 0: until it is unpinned
  bool pinned = true;           // false: unpin
};
struct pinned_prefix {
  std::uint64_t blocks = 0;  // of all stores
  std::string hash;          // of the last of them; empty: none is there
};

class generation_service {
 public:
  virtual ~generation_service() = default;
  // Any thread, never blocks. The outcome, refusals included, comes to the sink.
  virtual request_id submit(generation g, std::shared_ptr<generation_sink> sink) = 0;
  // Any thread, idempotent. The sink still gets its on_finished (abort).
  virtual void cancel(request_id id) = 0;
  // Latest known, without waiting for anyone.
  virtual cluster_status status() const = 0;
  // Prompt and answer of the longest request that a decode node can hold, cheaply; 0: no node has told yet.
  virtual std::uint32_t max_model_len() const = 0;
  // Takes a node out of service: no new requests; those that run finish, after `timeout` they move to another decode
  // node; then the node leaves, or is started again. Waits a few seconds at most. ec::not_found; ec::invalid_argument:
  // the last decode node without `force`.
  virtual result<void> drain_node(const std::string& name, std::chrono::milliseconds timeout,
                                  bool restart, bool force) = 0;
  // Prometheus text of every node of the cluster, merged by family; nodes that do not answer in time are left out.
  virtual std::string metrics_text(std::chrono::milliseconds timeout) = 0;
  // KV stores forget what nobody reads at the moment; how many blocks that were.
  virtual std::uint64_t clear_stores(std::chrono::milliseconds timeout) = 0;
  // They keep what they have of a prompt whatever else is asked for, or no more. ec::invalid_argument: no such hash.
  virtual result<pinned_prefix> pin_prefix(const prefix_pin& what,
                                           std::chrono::milliseconds timeout) = 0;
};

}  // namespace troupe::actors
