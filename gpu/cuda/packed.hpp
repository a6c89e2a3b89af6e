// Quantized weights as the GPU keeps them: GGUF's blocks, at awkward addresses, become tiles of 64 rows by 64 columns that
// one bulk copy brings to shared memory, and in which each thread of a warpgroup finds the very values that the tensor cores
// want from its registers (PTX ISA, "wgmma", matrix fragment A of m64k16).
//
//   q4: Q4_0, Q4_1, Q4_K. 128 threads x 4 words of nibbles, then [64 rows][2] (scale, minimum) of 32 values in bf16: 5 bits
//       a value.
//   q8: Q5_0, Q8_0, Q6_K. 2 x 128 threads x 4 words of bytes, then [64 rows][4] scales of 16 values in f16: 9 bits.
//   f8: E4M3 made from bf16 or f16 weights when they are loaded, with one f32 scale a row, which products are multiplied
//       with. [8 rows of 8][4 times 16 columns][8 rows][16 bytes]: the tensor cores' own order of 8-bit operands in shared
//       memory, so that the same tile also serves products of E4M3 with E4M3 (gemm_fp8.cu). Of 16 columns the bytes
//       4 t + {0, 1, 2, 3} are columns 2 t + {0, 1, 8, 9}.
// Thread t holds rows 16 (t / 32) + t % 32 / 4 and the one 8 below, of each 16 columns 2 (t % 4) + {0, 1, 8, 9}. Tiles of 64
// rows lie one after the other along the columns.
// Immutable; any thread.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/result.hpp"
#include "gpu/cuda/dequantize.hpp"
#include "model/tensor.hpp"

namespace troupe::gpu::cuda {

enum class packed_format : std::uint8_t { none, q4, q8, f8 };
// none: such a tensor is kept in bf16.
packed_format packed_format_of(model::tensor_type type);
__host__ __device__ constexpr std::uint32_t packed_tile_bytes(packed_format f) {
  return f == packed_format::q4 ? 2560 : f == packed_format::q8 ? 4608 : 4096;
}

// A fused matrix may hold tensors of different formats, each a run of whole tiles (q, k and v of Q4_K_M).
struct packed_matrix {
  static constexpr std::uint32_t max_runs = 3;
  const std::byte* data = nullptr;          // nullptr: not packed
  std::uint32_t first_tile[max_runs] = {};  // in tiles of 64 rows; unused runs begin at the end
  std::uint64_t offset[max_runs] = {};      // bytes
  packed_format format[max_runs] = {};
  const float* row_scales = nullptr;  // [rows]; f8, and then of all runs
};

// Where a row tile begins and how it is packed.
struct packed_row {
  std::uint64_t offset;
  packed_format format;
};
// Written out: an index that is not known when compiling would put the matrix in local memory.
__host__ __device__ inline packed_row find_row(const packed_matrix& m, std::uint32_t tile,
                                               std::uint32_t depth_steps) {
  std::uint32_t first = m.first_tile[0];
  packed_row row{m.offset[0], m.format[0]};
  if (tile >= m.first_tile[1]) {
    first = m.first_tile[1];
    row = {m.offset[1], m.format[1]};
  }
  if (tile >= m.first_tile[2]) {
    first = m.first_tile[2];
    row = {m.offset[2], m.format[2]};
  }
  row.offset += std::uint64_t{tile - first} * packed_tile_bytes(row.format) * depth_steps;
  return row;
}

// raw: rows of a tensor on the device, in its own format. to: the tiles of the tensor's run, zero before. placement: rows within the run.
result<void> pack(model::tensor_type type, const std::byte* raw, std::uint64_t rows,
                  std::uint64_t columns, std::byte* to, row_placement placement,
                  cudaStream_t stream);
// The same from bf16 [rows][columns] to f8 tiles; scales: of the run's rows.
result<void> quantize_to_f8(const __nv_bfloat16* from, std::uint64_t rows, std::uint64_t columns,
                            std::byte* to, float* scales, row_placement placement,
                            cudaStream_t stream);
// The whole matrix in bf16 [rows][columns], bit for bit what the fused kernel multiplies with: without row_scales.
result<void> unpack(const packed_matrix& m, std::uint32_t rows, std::uint32_t columns,
                    __nv_bfloat16* to, bool early, cudaStream_t stream);

}  // namespace troupe::gpu::cuda
