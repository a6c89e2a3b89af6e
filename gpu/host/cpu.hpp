// What this process may use of the CPU: instruction set and cores. Any thread.
#pragma once

#include <string_view>

#include "base/result.hpp"
#include "gpu/host/kernels.hpp"

namespace troupe::gpu::host {

// The kernels for "auto", "avx512vnni", "avxvnni", "avx2" or "portable". "vnni256" (AVX-VNNI's code in AVX-512's
// encoding) is for tests. ec::unsupported when this CPU lacks the instructions.
result<const kernel_table*> choose_kernels(std::string_view isa);

// Cores that the scheduler may give this process, within its control group's quota; at least 1.
unsigned available_cores();

}  // namespace troupe::gpu::host
