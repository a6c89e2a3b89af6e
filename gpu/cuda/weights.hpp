// A model's weights on the device: matrices in one arena, bf16 or packed as the file has them (packed.hpp), fused and laid
// out as the kernels want them.
//
// Immutable once made; owned by the runner.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "gpu/cuda/buffer.hpp"
#include "gpu/cuda/gemm.hpp"
#include "model/model.hpp"

namespace troupe::gpu::cuda {

struct device_layer {
  const float* attn_norm = nullptr;                  // [hidden]
  weight_matrix qkv;                                 // q, k and v rows one after the other
  const float* qkv_bias = nullptr;                   // optional
  const float *q_norm = nullptr, *k_norm = nullptr;  // optional [head_dim]
  weight_matrix o;
  const float* ffn_norm = nullptr;  // [hidden]
  weight_matrix gate_up;            // gate and up in alternating groups of 8 rows
  weight_matrix down;
};

struct device_weights {
  device_buffer<std::byte> arena;
  device_buffer<__nv_bfloat16> scratch;  // where packed layers are unpacked to for many rows
  weight_matrix embed, lm_head;          // the same memory when tied
  const float* norm = nullptr;
  std::vector<device_layer> layers;
  std::size_t bytes() const { return arena.bytes() + scratch.bytes(); }
};

// fp8: layers' matrices that the file has in bf16, f16 or f32 become E4M3.
result<device_weights> upload_weights(const model::loaded_model& model, bool fp8,
                                      const std::function<void(double)>& progress,
                                      cudaStream_t stream);
// Seeded normal weights of a scale that keeps activations near one, made on the device.
// q4: layers and embedding as q4_k, the LM head as q6_k, like a Q4_K_M file. fp8: layers as f8, the rest bf16.
enum class synthetic_weights : std::uint8_t { bf16, q4, fp8 };
result<device_weights> synthesize_weights(const model::model_config& config, synthetic_weights kind,
                                          std::uint64_t seed, cudaStream_t stream);

}  // namespace troupe::gpu::cuda
