// Which device each of a server's nodes takes: `--device cuda:0,cuda:1` names them in turn, prefill nodes first. Nodes
// that share a GPU share its memory too. Plain functions, any thread.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"
#include "gpu/model_runner.hpp"

namespace troupe::actors {

struct placement {
  std::string device;
  double gpu_memory_fraction = 0;  // of the GPU's memory, weights and KV; 0 on the host
};

// One for each node. ec::invalid_argument: an empty name, or shares of a GPU of more than all of it.
result<std::vector<placement>> place_nodes(const gpu::runner_options& options, std::size_t nodes);

}  // namespace troupe::actors
