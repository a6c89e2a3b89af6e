// Everything in a forward pass that is neither a matrix product nor attention: embedding, RMSNorm with the residual,
// RoPE with the write into KV blocks, argmax. Each row is reduced in an order that depends on its width only.
//
// Stateless; the thread that owns the stream.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/result.hpp"
#include "gpu/cuda/packed.hpp"

namespace troupe::gpu::cuda {

// What a linear layer left: `splits` partial sums in f32, added in order, or bf16; neither: zero.
struct layer_output {
  const float* partial = nullptr;         // [splits][rows][columns]
  const __nv_bfloat16* values = nullptr;  // [rows][columns]
  std::uint32_t splits = 0;
};

// residual[rows][hidden] = table[tokens[row]]; clears argmax[rows] for find_argmax. hidden: a multiple of 4.
struct embed_arguments {
  const __nv_bfloat16* table;  // bf16_tiles.hpp; or, nullptr:
  packed_matrix packed;
  const std::uint32_t* tokens;
  float* residual;
  unsigned long long* argmax;
  std::uint32_t rows, hidden;
  // If there, of one row also what gemm.hpp's residual_update has; hidden is a multiple of 256.
  const float* weight = nullptr;
  std::uint8_t* normed = nullptr;
  float* squares = nullptr;
};
result<void> embed(const embed_arguments& a, bool early, cudaStream_t stream);

// residual += update; normed = residual / rms(residual) * weight. With `gather`, row i of the output comes from row
// gather[i] and the residual is not stored.
struct norm_arguments {
  float* residual;  // [rows][hidden]
  layer_output update;
  std::uint32_t update_rows;    // rows of the update's partials
  const float* weight;          // [hidden]
  __nv_bfloat16* normed;        // [rows][hidden]
  const std::uint32_t* gather;  // nullptr: row i
  std::uint32_t rows, hidden;   // hidden <= 16384, a multiple of 4
  float epsilon;
  // If there, what gemm.hpp's quantized_rows has, instead of `normed`; hidden is a multiple of 16.
  std::uint8_t* quantized = nullptr;
  float* scales = nullptr;
};
result<void> add_and_normalize(const norm_arguments& a, bool early, cudaStream_t stream);

// Splits qkv into heads: adds biases, normalizes q and k (Qwen3), rotates them, writes q and the KV of the row's slot.
struct rotary_arguments {
  layer_output qkv;              // [rows][(num_heads + 2 num_kv_heads) * head_dim]
  const float* bias;             // of all three, or nullptr
  const float *q_norm, *k_norm;  // [head_dim], or nullptr
  float epsilon;
  const float2* angles;  // [positions][dimensions / 2]: cos, sin
  const std::uint32_t *positions,
      *slots;       // slot = block * block_tokens + offset; no_slot: KV is not written
  __half* queries;  // [rows][num_heads][head_dim]
  std::byte* arena;
  std::size_t block_bytes,
      layer_offset;  // layer_offset: bytes from a block's start to the layer's K
  std::uint32_t rows, num_heads, num_kv_heads, head_dim, dimensions, block_tokens;
  bool interleaved;
};
inline constexpr std::uint32_t no_slot = ~std::uint32_t{0};
result<void> rotate_and_store(const rotary_arguments& a, bool early, cudaStream_t stream);

// cos and sin of position * inv_freq[pair] in double, rounded once, times `factor`.
result<void> fill_angles(const float* inv_freq, float factor, std::uint32_t positions,
                         std::uint32_t pairs, float2* angles, cudaStream_t stream);

// argmax[row] = the highest logit in an integer's order << 32 | ~its index; of equals the lowest index. All bits set: a
// logit is not a finite number. Must be cleared.
result<void> find_argmax(const float* logits, std::uint32_t rows, std::uint32_t vocab,
                         unsigned long long* argmax, bool early, cudaStream_t stream);
inline bool argmax_is_finite(unsigned long long key) {
  return key != ~0ull;
}
inline std::uint32_t argmax_index(unsigned long long key) {
  return ~static_cast<std::uint32_t>(key);
}

// to[0, count) = from[0, count), once the kernel before is complete. to: pinned memory of the host, which a kernel reaches sooner than
// a copy engine that the stream hands on to.
result<void> leave_to_host(const unsigned long long* from, unsigned long long* to,
                           std::uint32_t count, cudaStream_t stream);

// The same to the device, of any bytes; both aligned to 16. CUDA looks up whose memory a copy is of, and for that waits while another
// thread opens a peer's memory (0.3 s for 60 GB); a kernel's launch does not.
result<void> take_from_host(const void* from, void* to, std::size_t bytes, cudaStream_t stream);

// Once a device: the kernels of this file.
result<void> prepare_rows();

}  // namespace troupe::gpu::cuda
