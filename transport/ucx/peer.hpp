// One peer that this node reads from: its endpoint, the keys to its regions and what was asked of it. Private to
// transport/ucx; progress thread.
//
//   connecting --welcome, memory open--> up --failure, deadline of a get, disconnect--> closing --endpoint closed, no get
//        |                                                                    ^     outstanding--> gone
//        +--timeout, failure, disconnect--------------------------------------+
#pragma once

#include <ucp/api/ucp.h>

#include <deque>
#include <functional>

#include "transport/address.hpp"
#include "transport/ucx/endpoint.hpp"
#include "transport/ucx/memory_opener.hpp"
#include "transport/ucx/pull_op.hpp"

namespace troupe::transport::ucx {

struct remote_region {
  std::uint64_t base = 0, bytes = 0;
  memory_kind kind = memory_kind::host;
  ucp_rkey_h key = nullptr;
  const std::byte* mapped = nullptr;  // readable here, if set
  shared_memory mapping;              // what `mapped` points into, unless it is our own
  const std::byte* opened = nullptr;  // readable by our device, if set
};

class peer {
 public:
  enum class state { connecting, up, closing };
  // Called when a get ended, whatever its outcome; outstanding counts are already lowered.
  using get_ended = std::function<void(ticket&, ucs_status_t)>;

  // Called for each region that open() leaves to the opener, on its thread.
  using memory_opened = std::function<void(std::uint32_t region, result<const std::byte*>)>;

  // opener: null where this node has no device.
  peer(worker& on, memory_opener* opener, node_address address, std::uint64_t connection,
       time_point give_up_at, get_ended on_get_ended);
  peer(const peer&) = delete;
  peer& operator=(const peer&) = delete;
  ~peer();  // REQUIRES: gone()

  // Our own process: memory is read where it is, there is no endpoint.
  void open_local(std::vector<remote_region> own);
  // Makes the endpoint, maps what may be mapped, unpacks keys, says hello.
  result<void> open(const ucx_options& options, const memory_opened& on_opened);
  // On the progress thread, what `on_opened` told.
  void take_opened(std::uint32_t region, result<const std::byte*> opened);
  bool opening() const { return opening_ > 0; }
  // The owner answered, so it is who was meant: no other start of it has that key. Chooses the paths to local memory of
  // that kind. Error: no path is left.
  result<path> greet(memory_kind to);
  void hear_welcome(const welcome_header& welcome);

  void ask(const ticket& t, time_point now);  // messages
  void end(const ticket& t);                  // messages: what was asked for is not wanted any more
  void get(ticket& t);  // its end is told by get_ended, even if it ends at once

  // Maps some of what is new in its memory; false: nothing is.
  bool map_ahead();
  bool maps() const;

  // Sends what waits; false if something still does.
  bool flush() { return endpoint_.flush(); }

  // Closes by force: every get ends soon, and then gone() becomes true.
  void close(error reason);
  bool gone() const { return endpoint_.gone() && gets_ == 0; }
  // A batch of our device reads from its memory.
  void hold() { ++gets_; }
  void let_go() { --gets_; }
  // Why our device cannot read its memory; empty if it can, or has none.
  const std::string& not_opened() const { return not_opened_; }
  // Why its memory, of this host, is not mapped; empty if it is, or it is of another host.
  const std::string& not_mapped() const { return not_mapped_; }

  incarnation id() const { return address_.owner; }
  std::uint64_t connection() const { return connection_; }
  state now() const { return state_; }
  bool welcomed() const { return welcome_.has_value(); }
  ucs_status_t failure() const { return endpoint_.failure(); }
  const error& reason() const { return reason_; }
  time_point give_up_at() const { return give_up_at_; }
  const remote_region& region_at(region_id id) const { return regions_.at(raw(id)); }
  // How memory of that region reaches local memory of that kind.
  std::pair<mover, path> way(const remote_region& from, memory_kind to) const;

  std::deque<pull_op*> ready;  // pulls with pieces to begin, taken round robin
  std::size_t busy = 0;        // pieces asked for or being got
  std::size_t slots = 0;       // of pinned memory, that its pieces hold

 private:
  static void on_get(void* request, ucs_status_t status, void* ticket);
  result<void> add_region(const published_region& published, bool may_map,
                          const memory_opened& on_opened);
  void open_for_device(const published_region& published, const memory_opened& on_opened);
  void learn_paths();
  void drop_keys();

  worker& worker_;
  memory_opener* const opener_;
  node_address address_;
  const std::uint64_t connection_;
  const time_point give_up_at_;
  const get_ended get_ended_;
  state state_ = state::connecting;
  endpoint endpoint_;
  std::vector<remote_region> regions_;
  std::optional<welcome_header> welcome_;
  bool has_rdma_ = false, is_local_ = false;
  std::string not_opened_, not_mapped_;
  std::optional<path> forced_;
  error reason_;
  std::size_t gets_ = 0, opening_ = 0;
};

}  // namespace troupe::transport::ucx
