// RoPE of one head of q or k, and the place of a row's KV: by rows.cu for any rows, by attention for rows that are one token of
// their sequence. The same instructions, and so the same bits.
// Device code, sm_90a.
#pragma once

#include <cuda_fp16.h>

#include "gpu/cuda/row_parts.cuh"

namespace troupe::gpu::cuda {

// Values outside f16's range would make 0 * inf in attention; the comparison also turns NaN into a number.
__device__ inline __half finite_half(float x) {
  return __float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f));
}

// Where the KV of head `kv` (K heads, then V heads) of a row's slot begins.
__device__ inline __half* kv_place(const rotary_arguments& a, std::uint32_t slot,
                                   std::uint32_t kv) {
  return reinterpret_cast<__half*>(a.arena + std::size_t{slot / a.block_tokens} * a.block_bytes +
                                   a.layer_offset) +
         (std::size_t{kv} * a.block_tokens + slot % a.block_tokens) * a.head_dim;
}

// The two places in a head that pair `p` covers.
__device__ inline int2 pair_places(const rotary_arguments& a, int p) {
  const int rotated = static_cast<int>(a.dimensions) / 2;
  if (a.interleaved || p >= rotated) return make_int2(2 * p, 2 * p + 1);
  return make_int2(p, p + rotated);
}

// By a warp: a lane has pairs lane, lane + 32, ... store(place in the head, value).
template <class Store>
__device__ inline void rotate_head(const rotary_arguments& a, std::uint32_t row, std::uint32_t head,
                                   const Store& store) {
  constexpr int kMaxPairs = 4;  // head_dim <= 256
  const std::uint32_t width = (a.num_heads + 2 * a.num_kv_heads) * a.head_dim;
  const int lane = static_cast<int>(threadIdx.x) % 32, pairs = static_cast<int>(a.head_dim) / 2;
  const bool is_query = head < a.num_heads, is_value = head >= a.num_heads + a.num_kv_heads;

  float2 v[kMaxPairs] = {};
  float squares = 0.0f;
#pragma unroll
  for (int c = 0; c < kMaxPairs; ++c) {
    const int p = lane + 32 * c;
    if (p >= pairs) continue;
    const int2 at = pair_places(a, p);
    const std::size_t from = std::size_t{row} * width + head * a.head_dim;
    if (a.qkv.values != nullptr) {
      v[c] = make_float2(__bfloat162float(a.qkv.values[from + at.x]),
                         __bfloat162float(a.qkv.values[from + at.y]));
    }
    for (std::uint32_t s = 0; s < a.qkv.splits; ++s) {
      const float* part = a.qkv.partial + std::size_t{s} * a.rows * width + from;
      v[c].x += part[at.x];
      v[c].y += part[at.y];
    }
    if (a.bias != nullptr) {
      v[c].x += a.bias[head * a.head_dim + at.x];
      v[c].y += a.bias[head * a.head_dim + at.y];
    }
    squares += v[c].x * v[c].x + v[c].y * v[c].y;
  }
  const float* norm = is_query ? a.q_norm : is_value ? nullptr : a.k_norm;
  const float scale = norm != nullptr
                          ? rsqrtf(warp_sum(squares) / static_cast<float>(a.head_dim) + a.epsilon)
                          : 1.0f;
  const std::uint32_t position = a.positions[row];
#pragma unroll
  for (int c = 0; c < kMaxPairs; ++c) {
    const int p = lane + 32 * c;
    if (p >= pairs) continue;
    const int2 at = pair_places(a, p);
    if (norm != nullptr) {
      v[c].x *= scale * norm[at.x];
      v[c].y *= scale * norm[at.y];
    }
    const int rotated = static_cast<int>(a.dimensions) / 2;
    if (!is_value && p < rotated) {
      const float2 angle = a.angles[std::size_t{position} * rotated + p];
      v[c] = make_float2(v[c].x * angle.x - v[c].y * angle.y, v[c].x * angle.y + v[c].y * angle.x);
    }
    store(at.x, finite_half(v[c].x));
    store(at.y, finite_half(v[c].y));
  }
}

// The common case, whole interleaved heads without norms: a thread has eight neighbouring values, from `within` on.
__host__ __device__ inline bool rotates_eight(const rotary_arguments& a) {
  return a.interleaved && a.q_norm == nullptr && a.k_norm == nullptr &&
         a.dimensions == a.head_dim && a.head_dim % 8 == 0;
}
// The angles of these values' pairs: of the model, not of a kernel before.
struct eight_angles {
  float4 of[2];
  __device__ eight_angles(const rotary_arguments& a, std::uint32_t row, std::uint32_t within) {
    const auto* from = reinterpret_cast<const float4*>(
        a.angles + std::size_t{a.positions[row]} * (a.head_dim / 2) + within / 2);
    of[0] = from[0];
    of[1] = from[1];
  }
};
// kAtOnce: splits that are on their way at a time.
template <std::uint32_t kAtOnce>
__device__ inline uint4 rotate_eight(const rotary_arguments& a, std::uint32_t row,
                                     std::uint32_t head, std::uint32_t within,
                                     const eight_angles& angles) {
  const std::uint32_t width = (a.num_heads + 2 * a.num_kv_heads) * a.head_dim,
                      at = head * a.head_dim + within;
  const std::size_t from = std::size_t{row} * width + at;
  float4 v[2] = {};
  if (a.qkv.values != nullptr) {
    v[0] = load_bf16x4(a.qkv.values + from);
    v[1] = load_bf16x4(a.qkv.values + from + 4);
  }
  add_splits<kAtOnce>(v, a.qkv, from, 4, std::size_t{a.rows} * width, 2);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (a.bias != nullptr) v[i] = add(v[i], *reinterpret_cast<const float4*>(a.bias + at + 4 * i));
    if (head >= a.num_heads + a.num_kv_heads) continue;
    const float4 angle = angles.of[i];
    v[i] = make_float4(v[i].x * angle.x - v[i].y * angle.y, v[i].x * angle.y + v[i].y * angle.x,
                       v[i].z * angle.z - v[i].w * angle.w, v[i].z * angle.w + v[i].w * angle.z);
  }
  alignas(16) const __half out[8] = {finite_half(v[0].x), finite_half(v[0].y), finite_half(v[0].z),
                                     finite_half(v[0].w), finite_half(v[1].x), finite_half(v[1].y),
                                     finite_half(v[1].z), finite_half(v[1].w)};
  return *reinterpret_cast<const uint4*>(out);
}

}  // namespace troupe::gpu::cuda
