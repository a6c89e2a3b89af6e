// Puts the pieces together: a node (one role in this process) and a server (gateway, router and directory, with its
// nodes as child processes or in this one). No CAF types here.
//
// Threads: every function from any thread unless it says otherwise. Nothing waits without bound.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/engine_settings.hpp"
#include "actors/service.hpp"
#include "base/result.hpp"
#include "gpu/model_runner.hpp"
#include "model/model.hpp"

namespace troupe::actors {

struct store_settings {                   // of a KV store
  std::uint64_t memory_bytes = 0;         // 0: a fifth of the free memory, at most 1 GiB
  std::chrono::seconds ttl{0};            // of blocks that nobody uses; 0: until they are evicted
  std::filesystem::path disk;             // directory of its file; empty: memory only
  std::uint64_t disk_bytes = 0;           // at most, of that file
  std::uint32_t replicas = 1;             // of nodes: stores that they offer a prompt to
  std::chrono::milliseconds patience{0};  // of nodes: see role_options::store_patience
};

struct network_settings {
  std::string host =
      "127.0.0.1";  // where actors are published; others than loopback need `insecure` or a secret
  std::uint16_t port = 0;  // 0: any free one
  std::string secret;      // nodes of one cluster share it; not sent in the clear
  bool insecure = false;
};

struct node_options {
  std::string name;  // empty: "<role>-<process id>"
  std::string role;  // "prefill", "decode", "kv-store" or "draft"
  std::filesystem::path model;
  std::string model_name;
  gpu::runner_options runner;
  engine_settings engine;
  store_settings store;
  network_settings network;
  std::string join_host;
  std::uint16_t join_port = 0;
};

struct serve_options {
  std::filesystem::path model;
  std::string model_name;
  std::uint32_t num_prefill = 1, num_decode = 1, num_kv_store = 0, num_draft = 0;
  std::filesystem::path draft_model;  // of drafts: a smaller model of the same vocabulary
  std::string draft_device;           // empty: as the others
  unsigned draft_threads = 0;         // 0: as the others
  bool single_process = false;        // every role in this process
  std::uint32_t max_queued = 1024;    // requests that wait for a node; one more is refused
  std::chrono::milliseconds max_queue_wait{30'000};  // predicted: a longer one is refused at once
  gpu::runner_options runner;
  engine_settings engine;
  store_settings store;
  network_settings network;                         // of directory and gateway
  std::filesystem::path binary = "/proc/self/exe";  // children run `binary node --role ...`
  std::vector<std::string> node_arguments;  // further arguments of children: log level and the like
};

// ec::invalid_argument: there is no such role for a node.
result<void> check_role(const std::string& role);

// ec::invalid_argument: a listener that others can reach needs a secret or --insecure-cluster.
result<void> check(const network_settings& network);

// A node: one role in this process until it is stopped.
class node_process {
 public:
  static result<std::unique_ptr<node_process>> start(const node_options& options);
  virtual ~node_process() = default;  // stops
  virtual std::string name() const = 0;
  virtual std::uint16_t port() const = 0;
  virtual bool joined() const = 0;   // its cluster, once at least
  virtual void drain() = 0;          // no new work; running requests finish
  virtual bool drained() const = 0;  // also when an operator drained it
  virtual bool restart() const = 0;  // it was drained to be started again
  virtual std::optional<error> failure()
      const = 0;  // refused by the cluster, or the device is lost: leave
};

// A server: the door's process.
class serve_process {
 public:
  static result<std::unique_ptr<serve_process>> start(
      const serve_options& options, std::shared_ptr<const model::loaded_model> model);
  virtual ~serve_process() = default;  // stops nodes and actors within a few seconds
  virtual generation_service& service() = 0;
  virtual std::uint16_t cluster_port() const = 0;  // nodes join here, and programs
  // Nodes in this process, which end with it: all but guests with --single-process, else none.
  virtual std::vector<std::string> own_nodes() const = 0;
  virtual void drain() = 0;
  virtual bool drained() const = 0;
  virtual std::optional<error> failure() const = 0;  // a node cannot start: what to tell the user
};

}  // namespace troupe::actors
