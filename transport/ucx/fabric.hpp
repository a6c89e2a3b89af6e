// The real fabric, over UCX (https://openucx.org, 1.13 and later). One progress thread a process
// owns the UCX worker and makes every UCX call; it sleeps in poll() when there is nothing to do.
//
// Paths, chosen when the peer comes up: on one host its arena is mapped (memfd) and pulls are copies; between GPUs of
// one host the peer's arena is opened (CUDA IPC) and this node's GPU copies; with RDMA ucp_get; else the owner sends what
// it is asked for as active messages over TCP and this side copies them into place. Where a GPU is at one end and none of
// these reaches it, blocks go through pinned memory on the way. transport/README.md says why UCX's own shared memory, its
// get over TCP and its CUDA transports are not used.
// UCX's own environment variables win over the settings here (UCX_TLS, UCX_NET_DEVICES, ...).
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "transport/device_memory.hpp"
#include "transport/fabric.hpp"

namespace troupe::transport {

struct ucx_options {
  incarnation self{};      // random, new at each start of the process
  std::string transports;  // UCX_TLS; empty: tcp,posix,self, and RDMA where there is a device
  // The cluster's address of this node: only its interface's devices are used, and the port listens there. Empty or a
  // wildcard: every interface.
  std::string host;
  // The cluster's; only readers that have it are answered. Empty: whoever was given this fabric's address is.
  std::string secret;
  // The GPU whose memory will be registered. Null: host memory only.
  std::shared_ptr<device_memory> device;
  // Tests and figures: shm, tcp, cuda_ipc, staged_shm, staged_tcp, or rdma (UCX's get over whatever there is).
  std::optional<path> force_path;
  std::chrono::milliseconds connect_timeout{5000};
  std::size_t max_pulls = 4096;  // accepted and not yet done, of all peers; beyond: ec::queue_full
  std::size_t max_gets = 16;     // pieces under way for each peer, except mapped ones
  std::size_t copy_slice = 256 * 1024;  // bytes copied between two looks at the network
  // Pinned memory for each direction of staging, made when it is first needed, given back when it was not for so long.
  std::size_t staging_bytes = 64u << 20;
  std::chrono::milliseconds staging_rest{30'000};
  std::size_t device_batch = 32;  // pieces that a device copies and sums as one
};

result<std::unique_ptr<fabric>> make_ucx_fabric(const ucx_options& options, event_sink sink);

// For `troupe version` and logs: "1.13.1".
std::string ucx_description();

}  // namespace troupe::transport
