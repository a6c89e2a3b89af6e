// Which network devices UCX may use, so that its port listens where the node's other ports do and nowhere else. Private to
// transport/ucx. Any thread; may ask the resolver.
#pragma once

#include <string>

#include "base/result.hpp"

namespace troupe::transport::ucx {

// For UCX_NET_DEVICES. A loopback address: "lo". Another address of this machine: the interface that has it, and the
// network cards that UCX knows. Empty or a wildcard: empty, which is every one.
// ec::invalid_argument: no interface of this machine has that address.
result<std::string> net_devices(const std::string& host);

// Whether UCX finds an RDMA card here.
bool has_rdma_device();

}  // namespace troupe::transport::ucx
