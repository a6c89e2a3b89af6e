// wgmma: matrix products of a warpgroup (four warps), operands in shared memory under the 128-byte swizzle.
//
// Device code only, sm_90a. PTX ISA 9.0, "wgmma.mma_async". Accumulator of m64nN: thread t of the warpgroup holds, for each
// group j of 8 columns, d[4j], d[4j+1] of row 16 * (t / 32) + t % 32 / 4, columns 8j + 2 (t % 4) + {0, 1}, and
// d[4j+2], d[4j+3] of the row 8 below.
#pragma once

#include <cstdint>

#include "gpu/cuda/hopper.cuh"

namespace troupe::gpu::cuda {

__device__ inline void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving registers of an accumulator across a wait.
template <int kCount>
__device__ inline void hold(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Descriptor of a tile whose rows are 128 bytes (64 values) of the reduced dimension, 1024-byte aligned. 16 values further
// along the reduced dimension is + 2.
__device__ inline std::uint64_t k_major_tile(const void* tile) {
  return static_cast<std::uint64_t>((shared_address(tile) & 0x3FFFF) >> 4) |
         (std::uint64_t{1} << 16) | (std::uint64_t{1024 >> 4} << 32) | (std::uint64_t{1} << 62);
}
// Descriptor of a tile without a swizzle, of 8-bit values: pieces of 8 rows by 16 bytes, the next 16 bytes of a row 128 bytes
// further, the next 8 rows 512. 32 values further along the reduced dimension is + 16.
__device__ inline std::uint64_t k_major_pieces(const void* tile) {
  return static_cast<std::uint64_t>((shared_address(tile) & 0x3FFFF) >> 4) |
         (std::uint64_t{128 >> 4} << 16) | (std::uint64_t{512 >> 4} << 32);
}
// Descriptor of a tile whose rows are the reduced dimension and hold 64 output columns each; the next 64 columns lie
// `panel_bytes` further. 16 rows further is + 128.
__device__ inline std::uint64_t mn_major_tile(const void* tile, std::uint32_t panel_bytes) {
  return static_cast<std::uint64_t>((shared_address(tile) & 0x3FFFF) >> 4) |
         (static_cast<std::uint64_t>(panel_bytes >> 4) << 16) | (std::uint64_t{1024 >> 4} << 32) |
         (std::uint64_t{1} << 62);
}

// The text of one instruction and its operands follow from the number of values that a thread accumulates.
#define TROUPE_NAMES_4 "%0, %1, %2, %3"
#define TROUPE_NAMES_8 TROUPE_NAMES_4 ", %4, %5, %6, %7"
#define TROUPE_NAMES_16 \
  TROUPE_NAMES_8        \
  ", %8, %9, %10, %11, %12, %13, %14, %15"
#define TROUPE_NAMES_32 \
  TROUPE_NAMES_16       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TROUPE_NAMES_64                                                              \
  TROUPE_NAMES_32                                                                    \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TROUPE_NAMES_96                                                                          \
  TROUPE_NAMES_64                                                                                \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define TROUPE_NAMES_112 \
  TROUPE_NAMES_96        \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define TROUPE_NAMES_128                                                                         \
  TROUPE_NAMES_112                                                                               \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, " \
  "%127"
#define TROUPE_VALUES_4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define TROUPE_VALUES_8(i) TROUPE_VALUES_4(i), TROUPE_VALUES_4((i) + 4)
#define TROUPE_VALUES_16(i) TROUPE_VALUES_8(i), TROUPE_VALUES_8((i) + 8)
#define TROUPE_VALUES_32(i) TROUPE_VALUES_16(i), TROUPE_VALUES_16((i) + 16)
#define TROUPE_VALUES_64(i) TROUPE_VALUES_32(i), TROUPE_VALUES_32((i) + 32)
#define TROUPE_VALUES_96(i) TROUPE_VALUES_64(i), TROUPE_VALUES_32((i) + 64)
#define TROUPE_VALUES_112(i) TROUPE_VALUES_96(i), TROUPE_VALUES_16((i) + 96)
#define TROUPE_VALUES_128(i) TROUPE_VALUES_112(i), TROUPE_VALUES_16((i) + 112)

// d[64][N] += a b with `count` values of d a thread; `a`, `b` and `p` are the operands' numbers behind those, `layouts` which of
// a and b lie with the reduced dimension outermost.
#define TROUPE_WGMMA_BEGIN(count, kind, p)                                               \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %" #p ", 0;\nwgmma.mma_async.sync.aligned.m64n" kind \
  " {" TROUPE_NAMES_##count "}, "
#define TROUPE_WGMMA(name, count, kind, a, b, p, layouts)                                        \
  __device__ inline void name(float(&d)[count], std::uint64_t a_tile, std::uint64_t b_tile,      \
                              bool accumulate) {                                                 \
    asm volatile(TROUPE_WGMMA_BEGIN(count, kind, p) "%" #a ", %" #b ", p, 1, 1" layouts ";\n}\n" \
                 : TROUPE_VALUES_##count(0)                                                      \
                 : "l"(a_tile), "l"(b_tile), "r"(static_cast<int>(accumulate)));                 \
  }
#define TROUPE_WGMMA_REGISTERS(name, count, kind, a, b, p, layouts)                              \
  __device__ inline void name(float(&d)[count], const std::uint32_t(&a_values)[4],               \
                              std::uint64_t b_tile, bool accumulate) {                           \
    asm volatile(TROUPE_WGMMA_BEGIN(count, kind, p) "{" a "}, %" #b ", p, 1, 1" layouts ";\n}\n" \
                 : TROUPE_VALUES_##count(0)                                                      \
                 : "r"(a_values[0]), "r"(a_values[1]), "r"(a_values[2]), "r"(a_values[3]),       \
                   "l"(b_tile), "r"(static_cast<int>(accumulate)));                              \
  }

// d[64][N] += a[64][16] b[N][16]^T in bf16: the width follows from the accumulator.
TROUPE_WGMMA(multiply_bf16, 4, "8k16.f32.bf16.bf16", 4, 5, 6, ", 0, 0")
TROUPE_WGMMA(multiply_bf16, 8, "16k16.f32.bf16.bf16", 8, 9, 10, ", 0, 0")
TROUPE_WGMMA(multiply_bf16, 16, "32k16.f32.bf16.bf16", 16, 17, 18, ", 0, 0")
TROUPE_WGMMA(multiply_bf16, 32, "64k16.f32.bf16.bf16", 32, 33, 34, ", 0, 0")
TROUPE_WGMMA(multiply_bf16, 64, "128k16.f32.bf16.bf16", 64, 65, 66, ", 0, 0")
TROUPE_WGMMA(multiply_bf16, 96, "192k16.f32.bf16.bf16", 96, 97, 98, ", 0, 0")
TROUPE_WGMMA(multiply_bf16, 112, "224k16.f32.bf16.bf16", 112, 113, 114, ", 0, 0")
TROUPE_WGMMA(multiply_bf16, 128, "256k16.f32.bf16.bf16", 128, 129, 130, ", 0, 0")
// The same in f16.
TROUPE_WGMMA(multiply_f16, 32, "64k16.f32.f16.f16", 32, 33, 34, ", 0, 0")
TROUPE_WGMMA(multiply_f16, 64, "128k16.f32.f16.f16", 64, 65, 66, ", 0, 0")
// d[64][N] += a[64][16] b[16][N], a in registers, b an mn_major_tile.
TROUPE_WGMMA_REGISTERS(multiply_f16_registers, 32, "64k16.f32.f16.f16", "%32, %33, %34, %35", 36,
                       37, ", 1")
TROUPE_WGMMA_REGISTERS(multiply_f16_registers, 64, "128k16.f32.f16.f16", "%64, %65, %66, %67", 68,
                       69, ", 1")
// d[64][N] += a[64][16] b[N][16]^T in bf16, a in registers.
TROUPE_WGMMA_REGISTERS(multiply_bf16_registers, 16, "32k16.f32.bf16.bf16", "%16, %17, %18, %19", 20,
                       21, ", 0")
TROUPE_WGMMA_REGISTERS(multiply_bf16_registers, 32, "64k16.f32.bf16.bf16", "%32, %33, %34, %35", 36,
                       37, ", 0")
TROUPE_WGMMA_REGISTERS(multiply_bf16_registers, 64, "128k16.f32.bf16.bf16", "%64, %65, %66, %67",
                       68, 69, ", 0")
TROUPE_WGMMA_REGISTERS(multiply_bf16_registers, 128, "256k16.f32.bf16.bf16",
                       "%128, %129, %130, %131", 132, 133, ", 0")
// d[64][N] += a[64][32] b[N][32]^T in E4M3.
TROUPE_WGMMA(multiply_f8, 64, "128k32.f32.e4m3.e4m3", 64, 65, 66, "")
TROUPE_WGMMA(multiply_f8, 128, "256k32.f32.e4m3.e4m3", 128, 129, 130, "")

#undef TROUPE_WGMMA
#undef TROUPE_WGMMA_REGISTERS
#undef TROUPE_WGMMA_BEGIN
#undef TROUPE_NAMES_4
#undef TROUPE_NAMES_8
#undef TROUPE_NAMES_16
#undef TROUPE_NAMES_32
#undef TROUPE_NAMES_64
#undef TROUPE_NAMES_96
#undef TROUPE_NAMES_112
#undef TROUPE_NAMES_128
#undef TROUPE_VALUES_4
#undef TROUPE_VALUES_8
#undef TROUPE_VALUES_16
#undef TROUPE_VALUES_32
#undef TROUPE_VALUES_64
#undef TROUPE_VALUES_96
#undef TROUPE_VALUES_112
#undef TROUPE_VALUES_128

}  // namespace troupe::gpu::cuda
