#include "gpu/host/simd_portable.hpp"

#include "gpu/host/kernel_table.hpp"

namespace troupe::gpu::host {

const kernel_table& kernels_portable() {
  static constexpr kernel_table table = make_table<simd>("portable");
  return table;
}

}  // namespace troupe::gpu::host
