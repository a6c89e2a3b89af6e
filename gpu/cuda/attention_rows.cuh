// What a warpgroup does with 64 rows of queries and a tile of KV, by wgmma: scores, masks, values, results.
//
// Device code only, sm_90a.
#pragma once

#include "gpu/cuda/attention_parts.cuh"
#include "gpu/cuda/wgmma.cuh"

namespace troupe::gpu::cuda {

template <int kCount>
__device__ inline void pack_probabilities(const float (&s)[kCount],
                                          std::uint32_t (&p)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) p[i] = pack_half(s[2 * i], s[2 * i + 1]);
}

template <int kHead, int kKeys>
__device__ inline void start_scores(float (&s)[kKeys / 2], const std::uint8_t* queries,
                                    const std::uint8_t* keys) {
#pragma unroll
  for (int k = 0; k < kHead / 16; ++k) {
    const std::uint64_t a = k_major_tile(queries + k / 4 * (64 * 128)) + 2 * (k % 4);
    const std::uint64_t b = k_major_tile(keys + k / 4 * (kKeys * 128)) + 2 * (k % 4);
    multiply_f16(s, a, b, k > 0);
  }
}
template <int kHead, int kKeys>
__device__ inline void start_values(float (&o)[kHead / 2], const std::uint32_t (&p)[kKeys / 4],
                                    const std::uint8_t* values, bool accumulate) {
  const std::uint64_t v = mn_major_tile(values, kKeys * 128);
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    const std::uint32_t a[4] = {p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3]};
    multiply_f16_registers(o, a, v + 128 * k, accumulate || k > 0);
  }
}

// ptxas moves a wait for products to before what does not depend on them, and so before a softmax that shall hide behind them; but not to
// before a store: to `scratch`, by one thread, of what depends on all of the softmax.
__device__ inline void keep_before_wait(const softmax_state<false>& softmax, bool stores,
                                        float& scratch) {
  asm volatile(
      "{\n.reg .pred stores;\n"
      "setp.ne.u32 stores, %2, 0;\n"
      "@stores st.volatile.shared.f32 [%0], %1;\n}\n" ::"r"(shared_address(&scratch)),
      "f"(softmax.sum[0] + softmax.sum[1]), "r"(static_cast<std::uint32_t>(stores))
      : "memory");
}

// Scores of keys that a row must not see become -inf. `first`: the tile's first key; `last[]`: the rows' last key.
template <int kCount>
__device__ inline void mask_scores(float (&s)[kCount], int first, const int (&last)[2]) {
  const int column = first + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (column + i / 4 * 8 + i % 2 > last[i / 2 % 2]) s[i] = -INFINITY;
  }
}

template <int kHead>
__device__ inline void store_rows(const attention_parameters& p, const attention_item& item,
                                  std::uint32_t kv_head, std::uint32_t first_row,
                                  const float (&o)[kHead / 2],
                                  const softmax_state<false>& softmax) {
  const std::uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::uint32_t row = first_row + threadIdx.x % 128 / 32 * 16 + lane / 4 + r * 8;
    const std::uint32_t token = row / p.group, head = kv_head * p.group + row % p.group;
    if (token >= item.tokens) continue;
    if (item.parts == 1) {
      const float inverse = 1.0f / softmax.sum[r];
      __nv_bfloat16* to =
          p.a.output + (std::size_t{item.row + token} * p.num_heads + head) * kHead + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < kHead / 8; ++j) {
        *reinterpret_cast<__nv_bfloat162*>(to + 8 * j) =
            __floats2bfloat162_rn(o[4 * j + 2 * r] * inverse, o[4 * j + 2 * r + 1] * inverse);
      }
    } else {
      const std::size_t at =
          std::size_t{item.partial + item.part * item.tokens + token} * p.num_heads + head;
      float* to = p.a.partial_output + at * kHead + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < kHead / 8; ++j) {
        *reinterpret_cast<float2*>(to + 8 * j) =
            make_float2(o[4 * j + 2 * r], o[4 * j + 2 * r + 1]);
      }
      if (lane % 4 == 0) p.a.partial_softmax[at] = make_float2(softmax.maximum[r], softmax.sum[r]);
    }
  }
}

}  // namespace troupe::gpu::cuda
