// Quantized weights as the GPU keeps them, as small as in the file: GGUF's blocks, at awkward addresses, become tiles of 64
// rows by 64 columns that bulk copies bring to shared memory, and in which each thread of a warpgroup finds the very values
// that the tensor cores want from its registers (PTX ISA, "wgmma", matrix fragment A of m64k16). K-quants share scales along
// 256 columns, a group of four tiles; of other formats each tile is a group. A group has its tiles' integers, two tiles (or the
// one) at a time in four bands of 16 rows, a warp's part, then the scales, by bands too.
//
//   format  of          bits   integers of a band's tile            scales of a band
//   q4      Q4_1        5      32 threads x 4 words of nibbles      [16 rows][2] bf16 (scale, minimum) of 32 values
//   q4_0    Q4_0        4.5    the same                             [16][2] bf16 scale of 32; the minimum is -8 scales
//   q4_k    Q4_K        4.5    the same                             [16] x 16 bytes: f16 (scale, minimum) of 256 values, 8
//                                                                   pairs of 6 bits that they are multiplied with
//   q6_k    Q6_K        6.5625 32 x 4, then 32 x 2 words of 6 bits  [16][16] bytes, then [16] f16 that multiplies them
//   q8      Q5_0, Q8_0  8.5    2 x 32 threads x 4 words of bytes    [16][2] f16 scale of 32
//   f8      see below   8      1024 bytes                           one f32 a row, outside of the tiles
//
// Of three words, 8 pairs of 6 bits: a pair in each half word's bits 0 to 5 and 6 to 11; the other two in what is left.
//
// f8 is E4M3 as a file has it, or made from bf16, f16 or f32 weights when they are loaded; products are multiplied with the
// rows' scales. [8 rows of 8][4 times 16 columns][8 rows][16 bytes]: the tensor cores' own order of 8-bit operands in shared
// memory, so that the same tile also serves products of E4M3 with E4M3 (gemm_fp8.cu). Of 16 columns the bytes
// 4 t + {0, 1, 2, 3} are columns 2 t + {0, 1, 8, 9}.
//
// Thread t holds rows 16 (t / 32) + t % 32 / 4 and the one 8 below, of each 16 columns 2 (t % 4) + {0, 1, 8, 9}. Tiles of 64
// rows lie one after the other along the columns.
//
// 4-bit values unpack to 2^-32 of what they are (packed_gain): a nibble in a bf16's lowest bits, or in the four above them,
// is a subnormal number of 2^-133 or 2^-129 times its value, so one instruction makes two values of it,
// nibble * (2^133 scale) + minimum, and the factor keeps 2^133 scale finite for every f16 scale. The next four bits belong to
// the lower row, whose scales are a sixteenth. Products are multiplied with 2^32 at the end: no bit depends on it. So do values
// of 6 bits, whose scale is rounded to bf16: by at most 0.2 %, where a step between values of 6 bits is 3 % of the largest.
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

enum class packed_format : std::uint8_t { none, q4, q4_0, q4_k, q6_k, q8, f8 };
// none: such a tensor is kept in bf16.
packed_format packed_format_of(model::tensor_type type);

// Tiles that share a block of scales; rows have a multiple of so many.
__host__ __device__ constexpr std::uint32_t packed_group(packed_format f) {
  return f == packed_format::q4_k || f == packed_format::q6_k ? 4 : 1;
}
// Of a tile's integers.
__host__ __device__ constexpr std::uint32_t packed_quant_bytes(packed_format f) {
  return f == packed_format::f8 || f == packed_format::q8 ? 4096
         : f == packed_format::q6_k                       ? 3072
                                                          : 2048;
}
// Of a group's scales.
__host__ __device__ constexpr std::uint32_t packed_scale_bytes(packed_format f) {
  return f == packed_format::q4     ? 512
         : f == packed_format::q4_k ? 1024
         : f == packed_format::q6_k ? 1152
         : f == packed_format::f8   ? 0
                                    : 256;
}
__host__ __device__ constexpr std::uint32_t packed_tile_bytes(packed_format f) {
  return packed_quant_bytes(f) + packed_scale_bytes(f) / packed_group(f);
}
inline constexpr std::uint32_t bands_a_tile = 4;
// Of a band: a tile's integers, and a group's scales.
__host__ __device__ constexpr std::uint32_t band_quant_bytes(packed_format f) {
  return packed_quant_bytes(f) / bands_a_tile;
}
__host__ __device__ constexpr std::uint32_t band_scale_bytes(packed_format f) {
  return packed_scale_bytes(f) / bands_a_tile;
}
// Where in a group tile `sub`'s integers of a band begin, and the band's scales.
__host__ __device__ constexpr std::uint32_t band_quants_at(packed_format f, std::uint32_t sub,
                                                           std::uint32_t band) {
  const std::uint32_t together = packed_group(f) == 1 ? 1 : 2;
  return sub / together * together * packed_quant_bytes(f) +
         (band * together + sub % together) * band_quant_bytes(f);
}
__host__ __device__ constexpr std::uint32_t band_scales_at(packed_format f, std::uint32_t band) {
  return packed_group(f) * packed_quant_bytes(f) + band * band_scale_bytes(f);
}
// What products of unpacked values are multiplied with.
__host__ __device__ constexpr float packed_gain(packed_format f) {
  return f == packed_format::q8 || f == packed_format::f8 ? 1.0f : 0x1p32f;
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
// The same from bf16, f16 or f32 to f8 tiles; scales: of the run's rows.
result<void> quantize_to_f8(model::tensor_type type, const std::byte* raw, std::uint64_t rows,
                            std::uint64_t columns, std::byte* to, float* scales,
                            row_placement placement, cudaStream_t stream);
// The same of rows of E4M3 and then, behind the last one, a scale of each in f32: both stay as they are.
result<void> place_f8(const std::byte* raw, std::uint64_t rows, std::uint64_t columns,
                      std::byte* to, float* scales, row_placement placement, cudaStream_t stream);
// Once a device.
result<void> prepare_unpack();
// The whole matrix in tiles of bf16 (bf16_tiles.hpp), bit for bit what the fused kernel multiplies with: without row_scales.
result<void> unpack(const packed_matrix& m, std::uint32_t rows, std::uint32_t columns,
                    __nv_bfloat16* to, bool early, cudaStream_t stream);

}  // namespace troupe::gpu::cuda
