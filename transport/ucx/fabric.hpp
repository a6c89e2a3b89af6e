// The real fabric, over UCX (https://openucx.org, 1.13 and later). One progress thread a process
// owns the UCX worker and makes every UCX call; it sleeps in poll() when there is nothing to do.
//
// Paths, chosen when the peer comes up: on one host its arena is mapped (memfd) and pulls are copies; with RDMA, or CUDA
// memory at either end, ucp_get; else the owner sends what it is asked for as active messages over TCP and this
// side copies them into place. transport/README.md says why UCX's own shared memory and its get over TCP are not used.
// UCX's own environment variables win over the settings here (UCX_TLS, UCX_NET_DEVICES, ...).
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
  std::optional<path> force_path;  // tests: shm, tcp, or rdma (UCX's get over whatever there is)
  std::chrono::milliseconds connect_timeout{5000};
  std::size_t max_pulls = 4096;  // accepted and not yet done, of all peers; beyond: ec::queue_full
  std::size_t max_gets = 16;     // pieces under way for each peer, except mapped ones
  std::size_t copy_slice = 256 * 1024;  // bytes copied between two looks at the network
};

result<std::unique_ptr<fabric>> make_ucx_fabric(const ucx_options& options, event_sink sink);

// For `troupe version` and logs: "1.13.1".
std::string ucx_description();

}  // namespace troupe::transport
