#include "gpu/host/simd_avx512.hpp"

#include "gpu/host/kernel_table.hpp"

namespace troupe::gpu::host {

const kernel_table& kernels_avx512() {
  static constexpr kernel_table table = make_table<simd>("AVX-512 VNNI");
  return table;
}

}  // namespace troupe::gpu::host
