// The UCX context and worker of a process, and the memory registered with them. Private to
// transport/ucx. Made, used and destroyed on the progress thread only.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <vector>

#include "transport/address.hpp"
#include "transport/ucx/fabric.hpp"

namespace troupe::transport::ucx {

// "peer_lost: Endpoint timeout while pulling"
error to_error(ucs_status_t status, const std::string& while_doing);

// Memory that one-sided gets may read.
struct registered_memory {
  ucp_mem_h handle = nullptr;
  std::string key;  // packed rkey
};

class worker {
 public:
  static result<std::unique_ptr<worker>> make(const ucx_options& options);
  ~worker();
  worker(const worker&) = delete;
  worker& operator=(const worker&) = delete;

  ucp_worker_h handle() const { return worker_; }
  int event_fd() const { return event_fd_; }
  const std::string& address() const { return address_; }
  // Whether memory is to be registered, since something can read it without this process's help.
  bool serves_gets(memory_kind kind) const {
    return serves_gets_ && (kind == memory_kind::host || reaches_cuda_);
  }

  // Progress until nothing moves, at most `rounds` times. True if anything moved.
  bool progress(int rounds);
  // True if the event fd will tell of the next event; false: progress first.
  bool arm();

  result<registered_memory> map(std::byte* data, std::size_t bytes, memory_kind kind);
  void unmap(const registered_memory& memory);

 private:
  worker() = default;
  result<void> start(const ucx_options& options);

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
  std::string address_;
  bool reaches_cuda_ = false, serves_gets_ = false;
};

}  // namespace troupe::transport::ucx
