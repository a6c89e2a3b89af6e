#define TROUPE_VNNI256
#include "gpu/host/simd_avx2.hpp"

#include "gpu/host/kernel_table.hpp"

namespace troupe::gpu::host {

const kernel_table& kernels_vnni256() {
  static constexpr kernel_table table = make_table<simd>("AVX-512 VNNI, 256 bits");
  return table;
}

}  // namespace troupe::gpu::host
