// A fabric moves bytes between nodes by one primitive: the pull. The reader reads a peer's
// published region into a region of its own; nobody ever writes into a peer's memory. One fabric a
// process and incarnation; two kinds exist: transport/ucx (the real one) and transport/sim (virtual
// time, seeded faults).
//
// The guarantee that block owners build on (DESIGN section 1, promise 4): a pull that was accepted ends in exactly
// one pull_done, and when pull_done is delivered NOTHING can write into the pull's local pieces any more, whatever
// its outcome. So destination blocks stay quarantined exactly until pull_done, and are free afterwards. Every pull has
// a deadline. On shm, local and tcp this process itself copies the bytes, so a pull that is given up ends at once and
// its siblings go on. On cuda_ipc, and for the last hop of the staged paths, this node's own GPU copies: what it has
// begun ends within milliseconds and is waited for. On rdma the network card writes, so the endpoint is closed by force,
// every request on it ends, and only then are the completions delivered: that costs the peer (peer_down) and its other
// pulls.
//
// A peer is an incarnation: a restarted process is a new peer, and an address of another start is
// refused. When a peer goes down (lost, deadline, disconnect) all its pulls end first, then
// peer_down is delivered; connect() with a fresh address makes it usable again. Being up says
// little: silence is for the caller to notice (heartbeats of the actor layer), who then calls
// disconnect().
//
// Threads: every function may be called from any thread (sim: from the one simulator thread). The
// sink is called on the fabric's progress thread (sim: inside step()), never inside a call into the
// fabric; it must return within microseconds, must not call close() and may call anything else.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "transport/fence.hpp"

namespace troupe::transport {

using clock = std::chrono::steady_clock;
using time_point = clock::time_point;

enum class memory_kind : std::uint8_t { host, cuda };

// How bytes travel; chosen once, when the peer comes up.
// staged_*: a device at an end, whose blocks go through pinned host memory.
enum class path : std::uint8_t {
  none,
  local,
  shm,
  tcp,
  rdma,
  cuda_ipc,
  sim,
  staged_shm,
  staged_tcp
};
std::string_view to_string(path p);

// Index of a region in its owner's fabric, in the order of allocate() and register_memory(): 0, 1,
// ... Peers name a region by it, so an owner that always makes its KV arena first has it at 0.
enum class region_id : std::uint32_t {};
// Chosen by the caller, unique among its pulls under way.
enum class op_id : std::uint64_t {};
inline std::uint32_t raw(region_id id) {
  return static_cast<std::uint32_t>(id);
}
inline std::uint64_t raw(op_id id) {
  return static_cast<std::uint64_t>(id);
}

// Memory that this fabric may pull into and, once local_address() was taken, that peers may read.
// Lives until close(): an arena never grows, shrinks or moves.
struct region {
  region_id id{};
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  memory_kind kind = memory_kind::host;
  std::span<std::byte> span() const { return {data, bytes}; }
};

struct piece {
  std::uint64_t remote_offset = 0, local_offset = 0, bytes = 0;
};

struct pull_request {
  op_id op{};
  incarnation peer{};
  region_id remote{}, local{};
  std::vector<piece> pieces;  // at least one, none empty; local ranges must not overlap
  time_point deadline{};
  // Each piece is one whole block (payload, then fence): pull_done::checksums then holds the sum of
  // each copied payload, for verify(). Cheaper than a second pass over the block where the path
  // copies anyway. Of blocks in device memory the device computes it, and pull_done::fences brings their fences.
  bool checksum = false;
};

struct pull_done {
  op_id op{};
  incarnation peer{};
  result<void> outcome;                 // deadline_exceeded, peer_lost, canceled, io_error
  std::uint64_t bytes = 0;              // of the whole pull when it succeeded, else 0
  std::chrono::nanoseconds duration{};  // from acceptance to completion
  path via = path::none;
  std::vector<std::uint64_t> checksums;  // one a piece, if asked for and successful
  // The same, when the local region is device memory, which the host cannot read: for verify_fence().
  std::vector<fence_image> fences;
};
struct peer_up {
  incarnation peer{};
  path via = path::none;
};
struct peer_down {
  incarnation peer{};
  error reason;  // peer_lost, deadline_exceeded, canceled (by our own disconnect)
};
using event = std::variant<pull_done, peer_up, peer_down>;
using event_sink = std::function<void(event&&)>;

// Why the hello of somebody who wants to read from this node was not answered.
enum class refusal : std::uint8_t {
  malformed,  // also: of a release before hellos had a key
  wrong_key,  // it lacks the cluster's secret, or means another start of this node
  overload    // as many readers as this node serves
};
std::string_view to_string(refusal r);

struct path_stats {
  std::uint64_t pulls = 0, bytes = 0;
  double busy_seconds = 0;  // time during which at least one pull was under way on this path
  double gigabytes_per_second() const { return busy_seconds > 0 ? bytes / busy_seconds * 1e-9 : 0; }
};
struct fabric_stats {
  std::map<path, path_stats> paths;
  std::map<ec, std::uint64_t> failures;  // of accepted pulls, by reason
  std::map<incarnation, path> peers;     // those that are up
  std::map<path, std::uint64_t>
      slow_peers;  // of them: those that could be read faster; the log says why
  std::uint64_t pulls_running = 0;
  std::uint64_t peers_lost = 0;  // peer_down events other than by our own disconnect
  std::map<refusal, std::uint64_t> hellos_refused;
  std::uint64_t forced_closes =
      0;  // endpoints closed because a deadline expired while hardware wrote
};

class fabric {
 public:
  virtual ~fabric() = default;  // closes

  virtual incarnation self() const = 0;

  // Host memory, page aligned, contents unspecified, that peers on this host can map.
  // ec::out_of_memory names the limit that was hit. Blocks the caller for as long as the system
  // takes to make the pages.
  virtual result<region> allocate(std::size_t bytes) = 0;
  // Memory that the caller owns and keeps until close(). ec::unsupported if the transport cannot
  // reach that kind: cuda needs a fabric that was given the device (ucx_options::device).
  virtual result<region> register_memory(void* data, std::size_t bytes, memory_kind kind) = 0;

  // What a peer needs to connect: opaque, versioned, some hundred bytes; take it after the regions
  // were made.
  virtual result<std::string> local_address() = 0;

  // Starts to connect to the process that gave this address; peer_up or peer_down follows within
  // the fabric's connect timeout. Pulls are accepted at once and wait for it. Idempotent for a peer
  // that is connecting or up. ec::invalid_argument: the address is malformed; ec::peer_lost: it is
  // of another incarnation, or the peer is going down (wait for its peer_down); ec::unsupported:
  // another version.
  virtual result<void> connect(incarnation peer, std::string_view address) = 0;
  // Ends the peer's pulls (ec::canceled), then delivers peer_down. Unknown peers are ignored.
  virtual void disconnect(incarnation peer) = 0;

  // Accepts a pull or says why not, in which case no completion follows: ec::not_found (unknown
  // peer or region), ec::invalid_argument (a piece leaves its region, no piece, op in use),
  // ec::queue_full, ec::deadline_exceeded (already). Errors found only on the progress thread (peer
  // went down a moment ago) arrive as pull_done.
  virtual result<void> pull(pull_request request) = 0;
  // Asks a pull to end early (ec::canceled). Its pull_done still comes, once its memory is quiescent, at the
  // latest by its deadline; it may be a success if the pull was faster. Unknown ops are ignored.
  virtual void cancel(op_id op) = 0;

  virtual fabric_stats stats() const = 0;

  // Ends all pulls (ec::canceled) and peers, frees the regions, stops the thread. Bounded; the sink
  // is not called after it returned. Regions must not be touched afterwards. Idempotent.
  virtual void close() = 0;
};

}  // namespace troupe::transport
