// One UCX endpoint with peer error handling, and the messages that wait to be sent on it. Private to transport/ucx;
// progress thread. Callbacks only note what happened; the owner of the endpoint looks at failure() in its own time.
//
// Every message is sent whole and at once, or UCX says that it cannot take it now and we keep it. So UCX holds no
// request of ours, and needs no connection handshake of its own: UCX 1.13 aborts the process that answers such a
// handshake when its sender has just died (an assertion in ucp_request_send_state_ff).
#pragma once

#include <ucp/api/ucp.h>

#include <deque>
#include <string>
#include <string_view>

#include "transport/ucx/messages.hpp"
#include "transport/ucx/worker.hpp"

namespace troupe::transport::ucx {

class endpoint {
 public:
  endpoint() = default;
  endpoint(const endpoint&) = delete;
  endpoint& operator=(const endpoint&) = delete;
  ~endpoint();  // REQUIRES: gone()

  result<void> open(worker& on, std::string_view worker_address);
  ucp_ep_h handle() const { return handle_; }

  // A small message, in order, as soon as UCX takes it. `payload` is copied.
  template <class Header>
  void post(message id, const Header& header, std::string_view payload = {}) {
    waiting_.push_back({id, std::string(reinterpret_cast<const char*>(&header), sizeof header),
                        std::string(payload)});
    flush();
  }
  // False: not now, try again when the network moved. What was posted goes first.
  template <class Header>
  bool try_send(message id, const Header& header, std::string_view payload) {
    return flush() &&
           send_now(id, {reinterpret_cast<const char*>(&header), sizeof header}, payload);
  }
  // True if nothing posted waits any more.
  bool flush();

  // UCS_OK while it is well.
  ucs_status_t failure() const { return failure_; }
  void note(ucs_status_t status) {
    if (failure_ == UCS_OK) failure_ = status;
  }

  // By force: whatever is under way ends soon. Once.
  void close();
  bool gone() const { return closed_; }

 private:
  struct posted {
    message id;
    std::string header, payload;
  };
  bool send_now(message id, std::string_view header, std::string_view payload);
  static void on_error(void* self, ucp_ep_h, ucs_status_t status);
  static void on_closed(void* request, ucs_status_t status, void* self);

  ucp_ep_h handle_ = nullptr;
  std::deque<posted> waiting_;
  bool closed_ = true;
  ucs_status_t failure_ = UCS_OK;
};

}  // namespace troupe::transport::ucx
