// Builds the kernel_table of the including file's `simd`. Included last by each kernels_<isa>.cpp.
#pragma once

#include "gpu/host/attention.hpp"
#include "gpu/host/kernels.hpp"
#include "gpu/host/matmul.hpp"
#include "gpu/host/rows.hpp"

namespace troupe::gpu::host {
namespace {

template <class S>
constexpr kernel_table make_table(const char* name) {
  using rows = row_kernels<S>;
  using attention = attention_kernels<S>;
  return {name,
          {matmul_kernel<S, weight_format::u4_min>::run, matmul_kernel<S, weight_format::u4>::run,
           matmul_kernel<S, weight_format::u5_min>::run, matmul_kernel<S, weight_format::u5>::run,
           matmul_kernel<S, weight_format::u8>::run, matmul_kernel<S, weight_format::u4_k>::run,
           matmul_kernel<S, weight_format::u5_k>::run, matmul_kernel<S, weight_format::u6_k>::run,
           matmul_kernel<S, weight_format::f16>::run, matmul_kernel<S, weight_format::bf16>::run,
           matmul_kernel<S, weight_format::f32>::run},
          rows::quantize_row,
          rows::rms_norm,
          rows::silu_multiply,
          rows::rope,
          rows::store_f16,
          attention::attend,
          attention::merge,
          rows::scale,
          rows::add};
}

}  // namespace
}  // namespace troupe::gpu::host
