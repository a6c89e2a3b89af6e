// One peer: its endpoint, the keys to its regions and the gets under way. Private to transport/ucx;
// progress thread.
//
//   connecting --hello read--> up --failure, deadline, disconnect--> closing --endpoint closed,
//        |                                                             ^      nothing
//        outstanding--> gone
//        +--timeout, failure, disconnect-------------------------------+
//
// The hello is a page in the peer that holds its incarnation. Reading it over the network proves
// that the process answers and is the one that was meant, and opens the connection that will tell
// of its death.
#pragma once

#include <ucp/api/ucp.h>

#include <deque>
#include <functional>
#include <memory>

#include "transport/address.hpp"
#include "transport/ucx/pull_op.hpp"
#include "transport/ucx/worker.hpp"

namespace troupe::transport::ucx {

struct remote_region {
  std::uint64_t base = 0, bytes = 0;
  memory_kind kind = memory_kind::host;
  ucp_rkey_h key = nullptr;
  const std::byte* mapped = nullptr;  // readable here, if set
};

class peer {
 public:
  enum class state { connecting, up, closing };
  // Called when a get of a pull ended, whatever its outcome; outstanding counts are already
  // lowered.
  using get_ended = std::function<void(get_ticket&, ucs_status_t)>;

  peer(worker& on, node_address address, time_point give_up_at, get_ended on_get_ended);
  peer(const peer&) = delete;
  peer& operator=(const peer&) = delete;
  ~peer();  // REQUIRES: gone(), or never opened

  // Our own process: memory is read where it is, there is no endpoint.
  void open_local(std::vector<remote_region> own);
  // Makes the endpoint, unpacks keys, maps what may be mapped, asks for the hello.
  result<void> open(bool may_map, bool may_get);
  // The hello arrived and is right: chooses the path. Error: it is of another incarnation.
  result<path> greet();

  // Begins one get. Its end is told by get_ended, even if it ends at once.
  void get(get_ticket& ticket);

  // Closes by force: every get ends soon, and then gone() becomes true.
  void close(error reason);
  bool gone() const { return closed_ && outstanding_ == 0 && !hello_pending_; }

  incarnation id() const { return address_.owner; }
  state now() const { return state_; }
  bool hello_arrived() const { return hello_arrived_; }
  // What UCX said about the endpoint; UCS_OK while it is well.
  ucs_status_t failure() const { return failure_; }
  const error& reason() const { return reason_; }
  time_point give_up_at() const { return give_up_at_; }
  std::size_t outstanding() const { return outstanding_; }
  const remote_region& region_at(region_id id) const { return regions_.at(raw(id)); }
  path get_path(memory_kind kind) const {
    return kind == memory_kind::cuda ? cuda_path_ : net_path_;
  }

  std::deque<pull_op*> ready;  // get path: pulls with pieces to begin, taken round robin

 private:
  static void on_endpoint_error(void* self, ucp_ep_h, ucs_status_t status);
  static void on_get(void* request, ucs_status_t status, void* ticket);
  static void on_hello(void* request, ucs_status_t status, void* self);
  static void on_closed(void* request, ucs_status_t status, void* self);
  result<remote_region> unpack(const published_region& published, bool may_map);
  void learn_paths();
  void drop_keys();

  worker& worker_;
  node_address address_;
  time_point give_up_at_;
  get_ended get_ended_;
  state state_ = state::connecting;
  ucp_ep_h endpoint_ = nullptr;
  std::vector<remote_region> regions_;
  remote_region hello_;
  std::unique_ptr<std::uint64_t> hello_value_ = std::make_unique<std::uint64_t>(0);
  bool hello_pending_ = false, hello_arrived_ = false, closed_ = true;
  ucs_status_t failure_ = UCS_OK;
  error reason_;
  path net_path_ = path::tcp, cuda_path_ = path::tcp;
  std::size_t outstanding_ = 0;
};

}  // namespace troupe::transport::ucx
