// The real fabric, over UCX (https://openucx.org, 1.13 and later). One progress thread a process
// owns the UCX worker and makes every UCX call; it sleeps in poll() when there is nothing to do.
//
// Paths: on one host the peer's arena is mapped (ucp_rkey_ptr) and pulls are copies; else ucp_get
// over RDMA or TCP. UCX's own environment variables win over the settings here (UCX_TLS,
// UCX_NET_DEVICES, ...).
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "transport/fabric.hpp"

namespace troupe::transport {

struct ucx_options {
  incarnation self{};      // random, new at each start of the process
  std::string transports;  // UCX_TLS; empty: tcp,posix,self, and RDMA where there is a device
  std::string devices;     // UCX_NET_DEVICES; empty: all
  bool cuda = false;       // GPU memory will be registered; needs a UCX with CUDA
  std::optional<path> force_path;  // tests and benchmarks: shm or tcp, whatever would be chosen
  std::chrono::milliseconds connect_timeout{5000};
  std::size_t max_pulls = 4096;  // accepted and not yet done, of all peers; beyond: ec::queue_full
  std::size_t max_gets = 16;     // UCX requests under way for each peer
  std::size_t copy_slice = 256 * 1024;  // bytes copied between two looks at the network
};

result<std::unique_ptr<fabric>> make_ucx_fabric(const ucx_options& options, event_sink sink);

// For `troupe version` and logs: "1.13.1".
std::string ucx_description();

}  // namespace troupe::transport
