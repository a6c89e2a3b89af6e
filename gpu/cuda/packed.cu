#include "gpu/cuda/packed.cuh"

#include <cuda_fp8.h>

#include "gpu/cuda/dequantize.cuh"
#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

using model::tensor_type;

constexpr float f8_largest = 448.0f;  // of E4M3

// Scale and minimum of 32 values from `first` on in a block of a 4-bit type.
template <tensor_type kType>
__device__ inline float2 q4_scale(const std::uint8_t* b, int first) {
  if constexpr (kType == tensor_type::q4_0) {
    return make_float2(block_half(b), -8.0f * block_half(b));
  } else if constexpr (kType == tensor_type::q4_1) {
    return make_float2(block_half(b), block_half(b + 2));
  } else {
    const int2 s = block_scale_min(b + 4, first / 32);
    return make_float2(block_half(b) * static_cast<float>(s.x),
                       -block_half(b + 2) * static_cast<float>(s.y));
  }
}
template <tensor_type kType>
__device__ inline int q4_value(const std::uint8_t* b, int i) {
  if constexpr (kType == tensor_type::q4_k)
    return b[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
  return block_nibble(b + (kType == tensor_type::q4_0 ? 2 : 4), i);
}

// Scale of 16 values from `first` on, and a value, of the types kept in 8 bits.
template <tensor_type kType>
__device__ inline float q8_scale(const std::uint8_t* b, int first) {
  if constexpr (kType == tensor_type::q6_k)
    return block_half(b + 208) * static_cast<float>(static_cast<signed char>(b[192 + first / 16]));
  return block_half(b);
}
template <tensor_type kType>
__device__ inline int q8_value(const std::uint8_t* b, int i) {
  if constexpr (kType == tensor_type::q8_0) {
    return static_cast<signed char>(b[2 + i]);
  } else if constexpr (kType == tensor_type::q5_0) {
    return (block_nibble(b + 6, i) | block_fifth_bit(b + 2, i)) - 16;
  } else {
    const int h = i / 128, k = i % 128 / 32, within = i % 32;
    const int nibble = b[h * 64 + 32 * (k % 2) + within] >> (k / 2 * 4) & 15;
    return (nibble | (b[128 + h * 32 + within] >> (2 * k) & 3) << 4) - 32;
  }
}

// A thread packs 32 values of a row.
template <tensor_type kType>
__global__ void __launch_bounds__(256)
    pack_kernel(const std::uint8_t* raw, std::uint64_t rows, std::uint32_t columns,
                std::uint32_t block_size, std::uint32_t block_bytes, std::uint8_t* to,
                row_placement placement) {
  constexpr bool kQ4 =
      kType == tensor_type::q4_0 || kType == tensor_type::q4_1 || kType == tensor_type::q4_k;
  const std::uint32_t groups = columns / 32;
  const std::uint64_t index = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= rows * groups) return;
  const std::uint64_t row = index / groups, column = index % groups * 32;
  const std::uint64_t target =
      placement.interleaved ? row / 8 * 16 + row % 8 + placement.first : row + placement.first;
  const std::uint8_t* block =
      raw + row * (columns / block_size) * block_bytes + column / block_size * block_bytes;
  const int first = static_cast<int>(column % block_size);
  const std::uint32_t tile_row = target % 64, tile_column = column % 64;
  std::uint8_t* tile = to + (target / 64 * (columns / 64) + column / 64) * (kQ4 ? 2560 : 4608);
  // Words are shared with the row 8 above or below, which may be of another tensor: they are completed bit by bit.
  auto* words = reinterpret_cast<std::uint32_t*>(tile);
  for (std::uint32_t i = 0; i < 32; ++i) {
    const fragment_place at = place_of(tile_row, tile_column + i);
    if constexpr (kQ4) {
      const auto q =
          static_cast<std::uint32_t>(q4_value<kType>(block, first + static_cast<int>(i)));
      atomicOr(words + at.thread * 4 + at.step, q << (4 * at.pair + 16 * at.high));
    } else {
      const auto q =
          static_cast<std::uint32_t>(q8_value<kType>(block, first + static_cast<int>(i)) + 128);
      atomicOr(words + at.step / 2 * 512 + at.thread * 4 + at.step % 2 * 2 + at.pair / 2,
               q << (8 * (at.pair % 2 * 2 + at.high)));
    }
  }
  const std::uint32_t group = tile_row * 2 + tile_column / 32;
  if constexpr (kQ4) {
    const float2 s = q4_scale<kType>(block, first);
    reinterpret_cast<__nv_bfloat162*>(tile + 2048)[group] = __floats2bfloat162_rn(s.x, s.y);
  } else {
    reinterpret_cast<__half2*>(tile + 4096)[group] =
        __floats2half2_rn(q8_scale<kType>(block, first), q8_scale<kType>(block, first + 16));
  }
}

// Block: a tile; a warp turns its 16 rows around in shared memory, so that rows leave it in whole 128 bytes.
__global__ void __launch_bounds__(128) unpack_kernel(const packed_matrix m, std::uint32_t rows,
                                                     std::uint32_t columns, __nv_bfloat16* to) {
  __shared__ __align__(16)
      std::uint32_t turned[4][16][36];  // 32 words a row, and 4 against bank conflicts
  let_next_kernel_start();
  const std::uint32_t steps = columns / 64, step = blockIdx.x, tile = blockIdx.y;
  const packed_row at = find_row(m, tile, steps);
  std::uint32_t values[16];
  unpack_fragment(reinterpret_cast<const std::uint8_t*>(m.data) + at.offset +
                      step * packed_tile_bytes(at.format),
                  at.format, threadIdx.x, values);
  const std::uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (std::uint32_t i = 0; i < 16; ++i) {
    turned[warp][lane / 4 + i % 2 * 8][i / 4 * 8 + i % 4 / 2 * 4 + lane % 4] = values[i];
  }
  __syncwarp();
  wait_for_previous_kernel();  // it may still read what this overwrites
#pragma unroll
  for (std::uint32_t i = 0; i < 4; ++i) {
    const std::uint32_t r = i * 4 + lane / 8, row = tile * 64 + warp * 16 + r;
    if (row < rows) {
      reinterpret_cast<uint4*>(to + std::size_t{row} * columns + step * 64)[lane % 8] =
          *reinterpret_cast<const uint4*>(&turned[warp][r][lane % 8 * 4]);
    }
  }
}

// Block: a row. Its largest value becomes E4M3's largest.
__global__ void __launch_bounds__(256)
    quantize_kernel(const __nv_bfloat16* from, std::uint32_t columns, std::uint8_t* to,
                    float* scales, row_placement placement) {
  __shared__ float highest[8];
  const std::uint32_t row = blockIdx.x;
  const std::uint32_t target =
      placement.first + (placement.interleaved ? row / 8 * 16 + row % 8 : row);
  const __nv_bfloat16* values = from + std::size_t{row} * columns;
  float largest = 0.0f;
  for (std::uint32_t i = threadIdx.x; i < columns; i += 256)
    largest = fmaxf(largest, fabsf(__bfloat162float(values[i])));
#pragma unroll
  for (int i = 16; i > 0; i /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, i));
  if (threadIdx.x % 32 == 0) highest[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < 8; ++w) largest = fmaxf(largest, highest[w]);
  const float scale = largest > 0.0f ? largest / f8_largest : 1.0f;
  if (threadIdx.x == 0) scales[target] = scale;
  std::uint8_t* tiles =
      to + std::size_t{target / 64} * (columns / 64) * packed_tile_bytes(packed_format::f8);
  for (std::uint32_t i = threadIdx.x; i < columns; i += 256) {
    tiles[i / 64 * packed_tile_bytes(packed_format::f8) + f8_place(target % 64, i % 64)] =
        __nv_cvt_float_to_fp8(__bfloat162float(values[i]) / scale, __NV_SATFINITE, __NV_E4M3);
  }
}

template <tensor_type kType>
result<void> run(const std::byte* raw, std::uint64_t rows, std::uint64_t columns, std::byte* to,
                 row_placement placement, cudaStream_t stream) {
  const model::tensor_type_info& info = model::info(kType);
  const std::uint64_t threads = rows * (columns / 32);
  return launch("pack", pack_kernel<kType>,
                {dim3(static_cast<unsigned>((threads + 255) / 256)), dim3(256), 0}, stream, false,
                reinterpret_cast<const std::uint8_t*>(raw), rows,
                static_cast<std::uint32_t>(columns), info.block_size, info.block_bytes,
                reinterpret_cast<std::uint8_t*>(to), placement);
}

}  // namespace

packed_format packed_format_of(tensor_type type) {
  switch (type) {
    case tensor_type::q4_0:
    case tensor_type::q4_1:
    case tensor_type::q4_k:
      return packed_format::q4;
    case tensor_type::q5_0:
    case tensor_type::q8_0:
    case tensor_type::q6_k:
      return packed_format::q8;
    default:
      return packed_format::none;
  }
}

result<void> pack(tensor_type type, const std::byte* raw, std::uint64_t rows, std::uint64_t columns,
                  std::byte* to, row_placement placement, cudaStream_t stream) {
  switch (type) {
    case tensor_type::q4_0:
      return run<tensor_type::q4_0>(raw, rows, columns, to, placement, stream);
    case tensor_type::q4_1:
      return run<tensor_type::q4_1>(raw, rows, columns, to, placement, stream);
    case tensor_type::q4_k:
      return run<tensor_type::q4_k>(raw, rows, columns, to, placement, stream);
    case tensor_type::q5_0:
      return run<tensor_type::q5_0>(raw, rows, columns, to, placement, stream);
    case tensor_type::q8_0:
      return run<tensor_type::q8_0>(raw, rows, columns, to, placement, stream);
    case tensor_type::q6_k:
      return run<tensor_type::q6_k>(raw, rows, columns, to, placement, stream);
    default:
      return fail(ec::internal, "this type is not packed");
  }
}

result<void> quantize_to_f8(const __nv_bfloat16* from, std::uint64_t rows, std::uint64_t columns,
                            std::byte* to, float* scales, row_placement placement,
                            cudaStream_t stream) {
  return launch("quantize_to_f8", quantize_kernel,
                {dim3(static_cast<unsigned>(rows)), dim3(256), 0}, stream, false, from,
                static_cast<std::uint32_t>(columns), reinterpret_cast<std::uint8_t*>(to), scales,
                placement);
}

result<void> unpack(const packed_matrix& m, std::uint32_t rows, std::uint32_t columns,
                    __nv_bfloat16* to, bool early, cudaStream_t stream) {
  return launch("unpack", unpack_kernel, {dim3(columns / 64, (rows + 63) / 64), dim3(128), 0},
                stream, early, m, rows, columns, to);
}

}  // namespace troupe::gpu::cuda
