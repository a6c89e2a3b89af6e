// The card's own read bandwidth, the limit of every decode figure.
#pragma once

#include "base/result.hpp"

namespace troupe::gpu::cuda {

// Bytes a second, best of several passes over 4 GiB.
result<double> measure_read_bandwidth();

}  // namespace troupe::gpu::cuda
