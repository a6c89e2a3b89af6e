// mma.sync: matrix products of one warp, and the loads of their operands from shared memory.
//
// Device code only, sm_90a. PTX ISA 9.0, "mma.m16n8k16", "ldmatrix", "movmatrix". Of an 8 x 8 matrix of 16-bit values a lane has the
// two of row lane / 4 and columns 2 (lane % 4) + {0, 1}; a[16][16] is four of them (rows 0-7, rows 8-15, then the same of the columns
// from 8 on), b[16][8] two with its columns as rows, and d[16][8] two of f32.
#pragma once

#include <cstdint>

namespace troupe::gpu::cuda {

// Four 8 x 8 matrices in shared memory. at: of row lane % 8 of matrix lane / 8.
__device__ __forceinline__ void load_matrices(std::uint32_t at, std::uint32_t (&b)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(at));
}
// Their transposes.
__device__ __forceinline__ void load_transposed(std::uint32_t at, std::uint32_t (&b)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(at));
}
__device__ __forceinline__ std::uint32_t transpose_matrix(std::uint32_t a) {
  std::uint32_t d;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(a));
  return d;
}

// d += a b in bf16.
__device__ __forceinline__ void multiply_warp(float* d, const std::uint32_t* a, std::uint32_t b0,
                                              std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same in f16.
__device__ __forceinline__ void multiply_warp_f16(float (&d)[4], const std::uint32_t (&a)[4],
                                                  std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace troupe::gpu::cuda
