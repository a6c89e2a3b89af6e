#include "gpu/cuda/packed.cuh"

#include "gpu/cuda/bf16_tiles.hpp"
#include "gpu/cuda/dequantize.cuh"
#include "gpu/cuda/f8.cuh"
#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

using model::tensor_type;

// Value i of a block as the integer that its tile keeps.
template <tensor_type kType>
__device__ inline std::uint32_t integer_of(const std::uint8_t* b, int i) {
  if constexpr (kType == tensor_type::q4_k) {
    return b[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
  } else if constexpr (kType == tensor_type::q4_0 || kType == tensor_type::q4_1) {
    return static_cast<std::uint32_t>(block_nibble(b + (kType == tensor_type::q4_0 ? 2 : 4), i));
  } else if constexpr (kType == tensor_type::q8_0) {
    return static_cast<std::uint32_t>(static_cast<signed char>(b[2 + i]) + 128);
  } else if constexpr (kType == tensor_type::q5_0) {
    return static_cast<std::uint32_t>((block_nibble(b + 6, i) | block_fifth_bit(b + 2, i)) - 16 +
                                      128);
  } else {
    static_assert(kType == tensor_type::q6_k);
    const int h = i / 128, k = i % 128 / 32, within = i % 32;
    const int nibble = b[h * 64 + 32 * (k % 2) + within] >> (k / 2 * 4) & 15;
    return static_cast<std::uint32_t>(nibble | (b[128 + h * 32 + within] >> (2 * k) & 3) << 4);
  }
}

// Puts six_bits' pair j, or one of it, into three words.
__device__ inline void put_six_bits(std::uint32_t* a, std::uint32_t* b, std::uint32_t* c, int j,
                                    std::uint32_t pair) {
  constexpr std::uint32_t low = 0x000F000F, high = 0x00300030;
  if (j < 6) {
    atomicOr(j / 2 == 0 ? a : j / 2 == 1 ? b : c, pair << (6 * (j % 2)));
  } else {
    atomicOr(j == 6 ? a : b, (pair & low) << 12);
    atomicOr(c, (pair & high) << (j == 6 ? 8 : 10));
  }
}

// The integer at `at` of a band's tile, whose bits are zero before. Words are shared with the row 8 above or below, which may
// be of another tensor: they are completed bit by bit.
template <packed_format kFormat>
__device__ inline void put_integer(std::uint8_t* tile, const fragment_place& at, std::uint32_t q) {
  auto* words = reinterpret_cast<std::uint32_t*>(tile);
  if constexpr (kFormat == packed_format::q8) {
    atomicOr(words + at.step / 2 * 128 + at.lane * 4 + at.step % 2 * 2 + at.pair / 2,
             q << (8 * (at.pair % 2 * 2 + at.high)));
  } else if constexpr (kFormat == packed_format::q6_k) {
    std::uint32_t *first = words + at.lane * 4, *second = words + 128 + at.lane * 2;
    const int j = static_cast<int>(at.step % 2 * 4 + at.pair);
    if (at.step < 2) {
      put_six_bits(first, first + 1, first + 2, j, q << (16 * at.high));
    } else {
      put_six_bits(first + 3, second, second + 1, j, q << (16 * at.high));
    }
  } else {
    atomicOr(words + at.lane * 4 + at.step, q << (4 * at.pair + 16 * at.high));
  }
}

// Scales of the 32 values of a block from `first` on; of a tile's row they are the `half`-th 32. row: of the band.
template <tensor_type kType>
__device__ inline void put_scales(std::uint8_t* scales, std::uint32_t row, std::uint32_t half,
                                  const std::uint8_t* b, int first) {
  const float factor = nibble_factor(row >= 8);
  if constexpr (kType == tensor_type::q4_0) {
    reinterpret_cast<__nv_bfloat16*>(scales)[row * 2 + half] =
        __float2bfloat16(block_half(b) * factor);
  } else if constexpr (kType == tensor_type::q4_1) {
    reinterpret_cast<__nv_bfloat162*>(scales)[row * 2 + half] =
        __floats2bfloat162_rn(block_half(b) * factor, block_half(b + 2) * 0x1p-32f);
  } else if constexpr (kType == tensor_type::q4_k) {
    auto* words = reinterpret_cast<std::uint32_t*>(scales) + row * 4;
    if (first == 0) words[0] = b[0] | b[1] << 8 | b[2] << 16 | std::uint32_t{b[3]} << 24;
    const int2 s = block_scale_min(b + 4, first / 32);
    put_six_bits(words + 1, words + 2, words + 3, first / 32,
                 static_cast<std::uint32_t>(s.x | s.y << 16));
  } else if constexpr (kType == tensor_type::q6_k) {
    scales[row * 16 + first / 16] = b[192 + first / 16];
    scales[row * 16 + first / 16 + 1] = b[192 + first / 16 + 1];
    if (first == 0)
      reinterpret_cast<__half*>(scales + 256)[row] = __float2half_rn(block_half(b + 208));
  } else {
    reinterpret_cast<__half*>(scales)[row * 2 + half] = __float2half_rn(block_half(b));
  }
}

__host__ __device__ constexpr packed_format format_of(tensor_type type) {
  switch (type) {
    case tensor_type::q4_0:
      return packed_format::q4_0;
    case tensor_type::q4_1:
      return packed_format::q4;
    case tensor_type::q4_k:
      return packed_format::q4_k;
    case tensor_type::q6_k:
      return packed_format::q6_k;
    case tensor_type::q5_0:
    case tensor_type::q8_0:
      return packed_format::q8;
    default:
      return packed_format::none;
  }
}

// A thread packs 32 values of a row.
template <tensor_type kType>
__global__ void __launch_bounds__(256)
    pack_kernel(const std::uint8_t* raw, std::uint64_t rows, std::uint32_t columns,
                std::uint32_t block_size, std::uint32_t block_bytes, std::uint8_t* to,
                row_placement placement) {
  constexpr packed_format kFormat = format_of(kType);
  constexpr std::uint32_t kGroup = packed_group(kFormat);
  const std::uint32_t parts = columns / 32;
  const std::uint64_t index = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= rows * parts) return;
  const std::uint64_t row = index / parts;
  const auto column = static_cast<std::uint32_t>(index % parts * 32);
  const std::uint64_t target = placement.target(row);
  const std::uint8_t* block =
      raw + row * (columns / block_size) * block_bytes + column / block_size * block_bytes;
  const int first = static_cast<int>(column % block_size);
  const auto tile_row = static_cast<std::uint32_t>(target % 64);
  const std::uint32_t step = column / 64, band = tile_row / 16;
  std::uint8_t* group =
      to + (target / 64 * (columns / 64) + step / kGroup * kGroup) * packed_tile_bytes(kFormat);
  for (std::uint32_t i = 0; i < 32; ++i) {
    put_integer<kFormat>(group + band_quants_at(kFormat, step % kGroup, band),
                         place_of(tile_row % 16, column % 64 + i),
                         integer_of<kType>(block, first + static_cast<int>(i)));
  }
  put_scales<kType>(group + band_scales_at(kFormat, band), tile_row % 16, column % 64 / 32, block,
                    first);
}

// Block: a tile; a warp turns its 16 rows around in shared memory, so that rows leave it in whole 128 bytes.
__global__ void __launch_bounds__(128)
    unpack_kernel(const packed_matrix m, std::uint32_t columns, __nv_bfloat16* to) {
  __shared__ __align__(16)
      std::uint32_t turned[4][16][36];  // 32 words a row, and 4 against bank conflicts
  let_next_kernel_start();
  const std::uint32_t steps = columns / 64, step = blockIdx.x, tile = blockIdx.y;
  const packed_row at = find_row(m, tile, steps);
  std::uint32_t values[16];
  unpack_fragment(at.format,
                  tile_of(reinterpret_cast<const std::uint8_t*>(m.data) + at.offset, at.format,
                          step, threadIdx.x / 32),
                  threadIdx.x % 32, values);
  const __nv_bfloat162 gain = __float2bfloat162_rn(packed_gain(at.format));
  const std::uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (std::uint32_t i = 0; i < 16; ++i) {
    turned[warp][lane / 4 + i % 2 * 8][i / 4 * 8 + i % 4 / 2 * 4 + lane % 4] =
        bits_of(__hmul2(as_bf162(values[i]), gain));
  }
  __syncwarp();
  wait_for_previous_kernel();  // it may still read what this overwrites
#pragma unroll
  for (std::uint32_t i = 0; i < 4; ++i) {
    const std::uint32_t r = i * 4 + lane / 8, chunk = lane % 8;
    *reinterpret_cast<uint4*>(
        to + bf16_place(tile * 64 + warp * 16 + r, step * 64 + chunk * 8, columns)) =
        *reinterpret_cast<const uint4*>(&turned[warp][r][chunk * 4]);
  }
}

// Block: a row. Its largest value becomes E4M3's largest. By way of bf16, which holds bf16 exactly and f16 to within half of
// E4M3's last bit by far.
template <tensor_type kType>
__global__ void __launch_bounds__(256)
    quantize_kernel(const std::uint8_t* raw, std::uint32_t columns, std::uint8_t* to, float* scales,
                    row_placement placement) {
  constexpr std::uint32_t kBytes = kType == tensor_type::f32 ? 4 : 2;
  __shared__ float highest[8];
  const std::uint32_t row = blockIdx.x;
  const std::uint32_t target = placement.target(row);
  const std::uint8_t* values = raw + std::size_t{row} * columns * kBytes;
  const auto value = [&](std::uint32_t i) {
    return __bfloat162float(__float2bfloat16(block_value<kType>(values + i * kBytes, 0)));
  };
  float largest = 0.0f;
  for (std::uint32_t i = threadIdx.x; i < columns; i += 256)
    largest = fmaxf(largest, fabsf(value(i)));
  largest = most_of_block<8>(largest, highest);
  const float scale = f8_scale(largest);
  if (threadIdx.x == 0) scales[target] = scale;
  std::uint8_t* tiles =
      to + std::size_t{target / 64} * (columns / 64) * packed_tile_bytes(packed_format::f8);
  for (std::uint32_t i = threadIdx.x; i < columns; i += 256) {
    tiles[i / 64 * packed_tile_bytes(packed_format::f8) + f8_place(target % 64, i % 64)] =
        __nv_cvt_float_to_fp8(value(i) / scale, __NV_SATFINITE, __NV_E4M3);
  }
}

// Block: a row.
__global__ void __launch_bounds__(256)
    place_f8_kernel(const std::uint8_t* raw, std::uint32_t columns, std::uint8_t* to, float* scales,
                    row_placement placement) {
  const std::uint32_t row = blockIdx.x;
  const std::uint32_t target = placement.target(row);
  std::uint8_t* tiles =
      to + std::size_t{target / 64} * (columns / 64) * packed_tile_bytes(packed_format::f8);
  for (std::uint32_t i = threadIdx.x; i < columns; i += 256) {
    tiles[i / 64 * packed_tile_bytes(packed_format::f8) + f8_place(target % 64, i % 64)] =
        raw[std::size_t{row} * columns + i];
  }
  if (threadIdx.x == 0)
    scales[target] = reinterpret_cast<const float*>(raw + std::size_t{gridDim.x} * columns)[row];
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
  return format_of(type);
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

result<void> quantize_to_f8(tensor_type type, const std::byte* raw, std::uint64_t rows,
                            std::uint64_t columns, std::byte* to, float* scales,
                            row_placement placement, cudaStream_t stream) {
  TROUPE_ASSERT(type == tensor_type::bf16 || type == tensor_type::f16 || type == tensor_type::f32);
  return launch("quantize_to_f8",
                type == tensor_type::bf16  ? quantize_kernel<tensor_type::bf16>
                : type == tensor_type::f16 ? quantize_kernel<tensor_type::f16>
                                           : quantize_kernel<tensor_type::f32>,
                {dim3(static_cast<unsigned>(rows)), dim3(256), 0}, stream, false,
                reinterpret_cast<const std::uint8_t*>(raw), static_cast<std::uint32_t>(columns),
                reinterpret_cast<std::uint8_t*>(to), scales, placement);
}

result<void> place_f8(const std::byte* raw, std::uint64_t rows, std::uint64_t columns,
                      std::byte* to, float* scales, row_placement placement, cudaStream_t stream) {
  TROUPE_ASSERT(columns % 64 == 0);
  return launch("place_f8", place_f8_kernel, {dim3(static_cast<unsigned>(rows)), dim3(256), 0},
                stream, false, reinterpret_cast<const std::uint8_t*>(raw),
                static_cast<std::uint32_t>(columns), reinterpret_cast<std::uint8_t*>(to), scales,
                placement);
}

result<void> prepare_unpack() {
  return load_kernels("preparing unpack", unpack_kernel);
}

result<void> unpack(const packed_matrix& m, std::uint32_t rows, std::uint32_t columns,
                    __nv_bfloat16* to, bool early, cudaStream_t stream) {
  return launch("unpack", unpack_kernel, {dim3(columns / 64, (rows + 63) / 64), dim3(128), 0},
                stream, early, m, columns, to);
}

}  // namespace troupe::gpu::cuda
