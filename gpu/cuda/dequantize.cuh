// Values of GGUF's quantized blocks, on the device. Layouts as in model/dequantize.cpp (ggml's block_q*).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "model/tensor.hpp"

namespace troupe::gpu::cuda {

// Blocks lie at any even address: halves are read whole, wider fields by bytes.
__device__ inline float block_half(const std::uint8_t* at) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(at[0] | at[1] << 8)));
}
__device__ inline int block_nibble(const std::uint8_t* quants, int i) {
  return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4;
}
__device__ inline int block_fifth_bit(const std::uint8_t* bits, int i) {
  return (bits[i / 8] >> i % 8 & 1) << 4;
}

// Scale and minimum of sub-block j of a K-quant: six bits each in 12 bytes.
__device__ inline int2 block_scale_min(const std::uint8_t* s, int j) {
  if (j < 4) return make_int2(s[j] & 63, s[j + 4] & 63);
  return make_int2((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4);
}

// Value i of the block at `b`.
template <model::tensor_type kType>
__device__ inline float block_value(const std::uint8_t* b, int i) {
  using model::tensor_type;
  if constexpr (kType == tensor_type::f32) {
    return __uint_as_float(b[0] | b[1] << 8 | b[2] << 16 | static_cast<std::uint32_t>(b[3]) << 24);
  } else if constexpr (kType == tensor_type::f16) {
    return block_half(b);
  } else if constexpr (kType == tensor_type::bf16) {
    return __uint_as_float(static_cast<std::uint32_t>(b[0] | b[1] << 8) << 16);
  } else if constexpr (kType == tensor_type::q4_0) {
    return static_cast<float>(block_nibble(b + 2, i) - 8) * block_half(b);
  } else if constexpr (kType == tensor_type::q4_1) {
    return static_cast<float>(block_nibble(b + 4, i)) * block_half(b) + block_half(b + 2);
  } else if constexpr (kType == tensor_type::q5_0) {
    return static_cast<float>((block_nibble(b + 6, i) | block_fifth_bit(b + 2, i)) - 16) *
           block_half(b);
  } else if constexpr (kType == tensor_type::q5_1) {
    return static_cast<float>(block_nibble(b + 8, i) | block_fifth_bit(b + 4, i)) * block_half(b) +
           block_half(b + 2);
  } else if constexpr (kType == tensor_type::q8_0) {
    return static_cast<float>(static_cast<signed char>(b[2 + i])) * block_half(b);
  } else if constexpr (kType == tensor_type::q4_k || kType == tensor_type::q5_k) {
    const int j = i / 32, within = i % 32;
    const int2 scale = block_scale_min(b + 4, j);
    const std::uint8_t* quants = b + (kType == tensor_type::q4_k ? 16 : 48) + j / 2 * 32;
    int q = quants[within] >> (j % 2 * 4) & 15;
    if constexpr (kType == tensor_type::q5_k) q |= (b[16 + within] >> j & 1) << 4;
    return block_half(b) * static_cast<float>(scale.x) * static_cast<float>(q) -
           block_half(b + 2) * static_cast<float>(scale.y);
  } else {
    static_assert(kType == tensor_type::q6_k);
    const int h = i / 128, k = i % 128 / 32, within = i % 32;
    const int nibble = b[h * 64 + 32 * (k % 2) + within] >> (k / 2 * 4) & 15;
    const int q = (nibble | (b[128 + h * 32 + within] >> (2 * k) & 3) << 4) - 32;
    const int scale = static_cast<signed char>(b[192 + h * 8 + 2 * k + within / 16]);
    return block_half(b + 208) * static_cast<float>(scale) * static_cast<float>(q);
  }
}

}  // namespace troupe::gpu::cuda
